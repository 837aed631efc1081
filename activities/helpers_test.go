package activities_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
)

const (
	clientID     = "4ab15e51-11ad-49f4-acae-f343b7794375"
	clientSecret = "planted-client-secret-2f0c"
	operatorMail = "planted.operator@product.example"
	publicURL    = "https://reauth.product.example"
	callback     = publicURL + "/callback"

	// Applications beside the default one: our credentials are wrong, the
	// provider cannot be reached, and nothing is configured at all.
	wrongSecret  = "wrong-secret"
	unreachable  = "unreachable"
	unconfigured = "unconfigured"
)

// Endpoints of Finch, as the simulator names them.
const (
	introspect = "GET /introspect"
	sessions   = "POST /connect/sessions/reauthenticate"
	exchange   = "POST /auth/token"
	company    = "GET /employer/company"
)

// rig is the activities with everything around them. Only Finch is simulated.
type rig struct {
	t        *testing.T
	acts     *activities.Activities
	db       *db.DB
	raw      *sqlx.DB // past the package, to look at rows
	sim      *finchsim.Sim
	inbox    *inbox.Server
	keys     *secrets.Keys
	heartbit []converter.EncodedValues // what Temporal has got, the newest last

	mu       sync.Mutex
	now      time.Time
	calls    []call       // what Finch was asked
	said     bytes.Buffer // logs, errors, results and heartbeats
	secrets  []string     // what must not stand in it
	handed   []reauth.TokenMinted
	handFail error
}

// call is one request as Finch got it.
type call struct {
	endpoint string
	body     map[string]any
	at       time.Time // by the wall
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Now().UTC().Truncate(time.Second), secrets: []string{clientSecret, operatorMail}}
	ctx := t.Context()
	keyset, err := secrets.Generate()
	require.NoError(t, err)
	r.keys, err = secrets.Load(keyset)
	require.NoError(t, err)
	address := pgtest.URL(t)
	r.db, err = db.Open(ctx, address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.db.Close() })
	r.raw, err = sqlx.Open("postgres", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.raw.Close() })

	r.sim, err = finchsim.New(finchsim.Config{ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{callback}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.sim.Close() })
	server := httptest.NewServer(http.HandlerFunc(r.finch))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	r.inbox, err = inbox.New(inbox.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.inbox.Close() })
	smtp, err := notify.NewSMTP(r.inbox.SMTPURL() + "?timeout=2s")
	require.NoError(t, err)

	client := func(url, secret string) activities.Provider {
		return activities.Finch{Client: finch.New(finch.Config{BaseURL: url, ClientID: clientID, ClientSecret: secret, Timeout: 5 * time.Second})}
	}
	r.acts = &activities.Activities{
		DB: r.db, Keys: r.keys, Mail: smtp, Hand: r, Now: r.clock,
		Logger: slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Settings: activities.Settings{
			PublicURL: publicURL, MailFrom: "Payday <hello@product.example>", ProductName: "Payday", OperatorEmail: operatorMail, Webhooks: true,
		},
		Providers: map[string]activities.Provider{
			reauth.DefaultApplication: client(server.URL, clientSecret),
			wrongSecret:               client(server.URL, "another-"+clientSecret),
			unreachable:               client("http://127.0.0.1:1", clientSecret),
		},
	}
	t.Cleanup(r.scan)
	return r
}

// in makes a subtest the one that fails, for as long as it runs.
func (r *rig) in(t *testing.T) {
	was := r.t
	r.t = t
	t.Cleanup(func() { r.t = was })
}

// finch writes down what is asked and lets the simulator answer.
func (r *rig) finch(w http.ResponseWriter, request *http.Request) {
	text, _ := io.ReadAll(request.Body)
	request.Body = io.NopCloser(bytes.NewReader(text))
	c := call{endpoint: request.Method + " " + request.URL.Path, at: time.Now()}
	_ = json.Unmarshal(text, &c.body)
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	r.sim.ServeHTTP(w, request)
}

// asked lists the calls of one endpoint.
func (r *rig) asked(endpoint string) []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.calls), func(c call) bool { return c.endpoint != endpoint })
}

// fail makes the simulator fail, until it is called again.
func (r *rig) fail(faults ...finchsim.Fault) {
	r.t.Helper()
	require.NoError(r.t, r.sim.SetKnobs(func(k *finchsim.Knobs) { k.Faults = faults }))
}

// answer is a fault that answers an endpoint for ever.
func answer(endpoint string, status int, body string) finchsim.Fault {
	return finchsim.Fault{Endpoint: endpoint, Kind: finchsim.FaultAnswer, Times: -1, Status: status, Body: body}
}

// always is a fault that strikes for ever. (Go repeats a GET whose connection
// broke, so that once would not be enough.)
func always(endpoint, kind string) finchsim.Fault {
	return finchsim.Fault{Endpoint: endpoint, Kind: kind, Times: -1, RetryAfter: finchsim.Duration(37 * time.Second)}
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// Write takes log lines.
func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(p)
}

// SubmitMinted stands for the starter.
func (r *rig) SubmitMinted(_ context.Context, minted reauth.TokenMinted) error {
	r.handed = append(r.handed, minted)
	return r.handFail
}

// secret remembers what no log line, error, result or heartbeat may hold.
func (r *rig) secret(texts ...string) { r.secrets = append(r.secrets, texts...) }

// scan fails the test if anything that the activities said holds a secret.
func (r *rig) scan() {
	for _, m := range r.inbox.Messages() {
		for _, l := range m.Links {
			if _, secret, ok := strings.Cut(l, "/r/"); ok {
				r.secret(secret)
			}
		}
	}
	said := r.said.String()
	for _, secret := range r.secrets {
		if i := strings.Index(said, secret); i >= 0 {
			r.t.Errorf("the secret %q stands in …%s", secret, said[max(0, i-300):min(len(said), i+100)])
		}
	}
}

// run runs the first attempt of an activity, as a worker would.
func run[I, O any](r *rig, step func(context.Context, I) (O, error), in I) (O, error) {
	r.heartbit = nil
	return again(r, step, in)
}

// again runs the next attempt, which finds the last heartbeat that Temporal got.
func again[I, O any](r *rig, step func(context.Context, I) (O, error), in I) (out O, err error) {
	r.t.Helper()
	value, err := r.attempt(step, in)
	if err == nil {
		require.NoError(r.t, value.Get(&out))
	}
	return out, err
}

// perform is run for an activity that must succeed.
func perform[I, O any](r *rig, step func(context.Context, I) (O, error), in I) O {
	r.t.Helper()
	out, err := run(r, step, in)
	require.NoError(r.t, err)
	return out
}

// alone makes an activity that returns nothing fit for run.
func alone[I any](step func(context.Context, I) error) func(context.Context, I) (struct{}, error) {
	return func(ctx context.Context, in I) (struct{}, error) { return struct{}{}, step(ctx, in) }
}

func (r *rig) attempt(step, in any) (converter.EncodedValue, error) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(r.acts.Logger))
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(time.Minute)
	env.SetWorkerOptions(sdkworker.Options{Interceptors: []interceptor.WorkerInterceptor{&heartbeats{rig: r}}})
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) { r.heartbit = append(r.heartbit, details) })
	if n := len(r.heartbit); n > 0 && r.heartbit[n-1].HasValues() {
		var said any
		require.NoError(r.t, r.heartbit[n-1].Get(&said))
		env.SetHeartbeatDetails(said)
	}
	r.heartbit = nil
	env.RegisterActivityWithOptions(step, activity.RegisterOptions{Name: "step"})
	value, err := env.ExecuteActivity("step", in)
	if err == nil {
		var out json.RawMessage
		require.NoError(r.t, value.Get(&out))
		fmt.Fprintf(r, "result %s\n", out)
	} else {
		fmt.Fprintf(r, "error %v %+v %s\n", err, err, temporal.GetDefaultFailureConverter().ErrorToFailure(err))
	}
	return value, err
}

// heartbeats writes down every heartbeat, also those that are not sent.
type heartbeats struct {
	interceptor.WorkerInterceptorBase
	interceptor.ActivityInboundInterceptorBase
	interceptor.ActivityOutboundInterceptorBase
	rig *rig
}

func (h *heartbeats) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &heartbeats{rig: h.rig}
	i.ActivityInboundInterceptorBase.Next = next
	return i
}

func (h *heartbeats) Init(outbound interceptor.ActivityOutboundInterceptor) error {
	i := &heartbeats{rig: h.rig}
	i.ActivityOutboundInterceptorBase.Next = outbound
	return h.ActivityInboundInterceptorBase.Next.Init(i)
}

func (h *heartbeats) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	return h.ActivityInboundInterceptorBase.Next.ExecuteActivity(ctx, in)
}

func (h *heartbeats) RecordHeartbeat(ctx context.Context, details ...any) {
	fmt.Fprintf(h.rig, "heartbeat %v\n", details)
	h.ActivityOutboundInterceptorBase.Next.RecordHeartbeat(ctx, details...)
}

// failure is an attempt's error as Temporal sees it.
func (r *rig) failure(err error) *temporal.ApplicationError {
	r.t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(r.t, err, &failure)
	require.False(r.t, failure.NonRetryable(), "%v is retried", err)
	return failure
}

func benign(e *temporal.ApplicationError) bool {
	return e.Category() == temporal.ApplicationErrorCategoryBenign
}

// customer is a connection at Finch that is registered with us, and a case of it.
type customer struct {
	id, token, mail string
	ref             activities.Case
}

// options choose what a customer differs in.
type options struct {
	entities, products []string
	application        string
	tokenless          bool // we hold no token
	contacts           []string
	people             []reauth.Contact // beside them
	report             reauth.Input
}

var numbers = make(chan int, 1)

func init() { numbers <- 1 }

// customer registers a connection with one contact, whose token we hold.
func (r *rig) customer(change ...func(*options)) customer {
	r.t.Helper()
	n := <-numbers
	numbers <- n + 1
	c := customer{mail: fmt.Sprintf("planted.payroll%d@acme.example", n)}
	o := options{contacts: []string{c.mail}, report: reauth.Input{Source: reauth.SourceAPIError, FinchCode: "reauthenticate_user"}}
	for _, f := range change {
		if f != nil {
			f(&o)
		}
	}
	connection, token, err := r.sim.AddConnection(finchsim.NewConnection{CustomerName: "Acme Bakery", Entities: o.entities})
	require.NoError(r.t, err)
	c.id, c.token = connection.ID, token
	stored := reauth.Connection{ConnectionID: c.id, CustomerID: "cus-1", CustomerName: "Acme Bakery", System: "Gusto", Products: o.products, Application: o.application}
	for _, mail := range o.contacts {
		stored.Contacts = append(stored.Contacts, reauth.Contact{Email: mail, Name: "Pat"})
		r.secret(mail)
	}
	for _, contact := range o.people {
		stored.Contacts = append(stored.Contacts, contact)
		r.secret(contact.Email)
	}
	_, err = r.db.PutConnection(r.t.Context(), stored)
	require.NoError(r.t, err)
	if !o.tokenless {
		r.adopt(c, token, r.now.Add(-24*time.Hour))
	}
	o.report.ConnectionID = c.id
	c.ref = activities.Case{CaseID: uuid.NewString(), ConnectionID: c.id, OpenedAt: r.now, Report: o.report}
	return c
}

// stale is a customer whom Finch has stopped serving, with an open case that
// waits in its first session.
func (r *rig) stale(change ...func(*options)) customer {
	r.t.Helper()
	c := r.customer(change...)
	require.NoError(r.t, r.sim.Break(c.id))
	out := perform(r, r.acts.Confirm, activities.ConfirmInput{Case: c.ref})
	require.Equal(r.t, activities.VerdictStale, out.Verdict)
	return c
}

// adopt stores a token as the customer's, past the activities.
func (r *rig) adopt(c customer, token string, mintedAt time.Time) {
	r.t.Helper()
	r.secret(token)
	_, err := r.db.Adopt(r.t.Context(), db.Adoption{
		ConnectionID: c.id, Fingerprint: reauth.Fingerprint(token), Source: "api", MintedAt: mintedAt,
		Seal: func(generation int64) ([]byte, error) {
			return r.keys.Seal([]byte(token), "token", c.id, strconv.FormatInt(generation, 10))
		},
	})
	require.NoError(r.t, err)
}

// click records that the customer pressed the button a while ago.
func (r *rig) click(c customer, ago time.Duration) {
	r.t.Helper()
	require.NoError(r.t, r.db.RecordClick(r.t.Context(), db.Click{
		ID: uuid.NewString(), CaseID: c.ref.CaseID, ConnectionID: c.id, At: r.clock().Add(-ago),
	}))
}

// row is the case as it is stored.
func (r *rig) row(c customer) db.Case {
	r.t.Helper()
	row, err := r.db.CaseByID(r.t.Context(), c.ref.CaseID)
	require.NoError(r.t, err)
	return row
}

// timeline lists the details of one kind of lines of the case's timeline.
func (r *rig) timeline(c customer, kind string) []string {
	r.t.Helper()
	events, err := r.db.Timeline(r.t.Context(), c.ref.CaseID)
	require.NoError(r.t, err)
	details := []string{}
	for _, e := range events {
		if e.Kind == kind {
			details = append(details, e.Detail)
		}
	}
	return details
}

// mails lists what an address has got.
func (r *rig) mails(address string) []inbox.Message {
	return slices.DeleteFunc(r.inbox.Messages(), func(m inbox.Message) bool { return !slices.Contains(m.To, address) })
}
