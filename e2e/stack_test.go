package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"golang.org/x/net/html"

	"github.com/finch-reauth/reauth/activities"
	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/dev/pgtest"
	"github.com/finch-reauth/reauth/finch"
	"github.com/finch-reauth/reauth/finch/finchsim"
	"github.com/finch-reauth/reauth/notify"
	"github.com/finch-reauth/reauth/notify/inbox"
	"github.com/finch-reauth/reauth/outbound"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/secrets"
	"github.com/finch-reauth/reauth/starter"
	"github.com/finch-reauth/reauth/web"
	"github.com/finch-reauth/reauth/worker"
)

const (
	clientID      = "4ab15e51-11ad-49f4-acae-f343b7794375"
	clientSecret  = "planted-client-secret-9b1d"
	webhookSecret = "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
	apiKey        = "planted-api-key-77c2"
	customerMail  = "planted.payroll@acme.example"
	operatorMail  = "operator@product.example"

	sandboxClientID      = "c9d1f6a2-0d55-4b0e-9f3d-0f6f4f1f2a11"
	sandboxClientSecret  = "planted-sandbox-secret-1c44"
	sandboxWebhookSecret = "b3RoZXIgc2VjcmV0IG9mIDI0IGJ5dGVz"

	patience = 2 * time.Minute
)

// options choose what a stack differs in.
type options struct {
	plainTemporal bool // no codec, for histories that people read
	databaseURL   string
	// temporalAddress is where the service, but not its worker, finds Temporal.
	temporalAddress string
	settings        func(*activities.Settings)
	webhookURL      string
	chat            string
	noWorker        bool
	// sandbox adds a second application, sandbox, with a Finch of its own.
	sandbox bool
}

// stack is the whole service in one process, with real parts around it.
type stack struct {
	t         *testing.T
	sim       *finchsim.Sim
	finchURL  string
	sandbox   *finchsim.Sim // the second application's, if there is one
	inbox     *inbox.Server
	db        *db.DB
	dbURL     string
	keys      *secrets.Keys
	keyset    string
	temporal  client.Client
	starter   *starter.Starter
	acts      *activities.Activities
	url       string
	logs      *logs
	taskQueue string
	options   options
	stop      context.CancelFunc
	stopped   chan struct{}
}

func newStack(t *testing.T, change ...func(*options)) *stack {
	t.Helper()
	s := &stack{t: t, logs: &logs{}, taskQueue: "reauth-" + uuid.NewString()}
	for _, c := range change {
		c(&s.options)
	}
	ctx := context.Background()
	var err error
	s.keyset, err = secrets.Generate()
	require.NoError(t, err)
	s.keys, err = secrets.Load(s.keyset)
	require.NoError(t, err)
	s.dbURL = s.options.databaseURL
	if s.dbURL == "" {
		s.dbURL = pgtest.URL(t)
	}
	s.db, err = db.Open(ctx, s.dbURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.db.Close() })
	require.NoError(t, s.db.Migrate(ctx))
	s.db.PublishEvents(s.options.webhookURL != "")

	s.inbox, err = inbox.New(inbox.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.inbox.Close() })

	ours, finchs := listen(t), listen(t)
	s.url, s.finchURL = "http://"+ours.Addr().String(), "http://"+finchs.Addr().String()
	s.sim, err = finchsim.New(finchsim.Config{
		ClientID: clientID, ClientSecret: clientSecret, WebhookSecret: webhookSecret,
		RedirectURIs: []string{s.url + "/callback"}, WebhookURL: s.url + "/webhooks/finch", PublicURL: s.finchURL,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.sim.Close() })
	serve(t, finchs, s.sim)

	clientOptions := client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(s.logger())}
	if !s.options.plainTemporal {
		s.keys.Configure(&clientOptions)
	}
	s.temporal, err = client.Dial(clientOptions)
	require.NoError(t, err)
	t.Cleanup(s.temporal.Close)
	s.starter = starter.New(s.temporal, starter.WithTaskQueue(s.taskQueue))
	outside := s.temporal // as the pages see Temporal
	if s.options.temporalAddress != "" {
		clientOptions.HostPort = s.options.temporalAddress
		outside, err = client.Dial(clientOptions)
		require.NoError(t, err)
		t.Cleanup(outside.Close)
	}
	outsideStarter := starter.New(outside, starter.WithTaskQueue(s.taskQueue))

	finchClient := finch.New(finch.Config{BaseURL: s.finchURL, ClientID: clientID, ClientSecret: clientSecret, Timeout: 5 * time.Second})
	finchClients := map[string]*finch.Client{reauth.DefaultApplication: finchClient}
	connectHosts := []string{finchs.Addr().String()}
	var further []web.Application
	if s.options.sandbox {
		sandboxes := listen(t)
		s.sandbox, err = finchsim.New(finchsim.Config{
			ClientID: sandboxClientID, ClientSecret: sandboxClientSecret, WebhookSecret: sandboxWebhookSecret,
			RedirectURIs: []string{s.url + "/callback/sandbox"}, WebhookURL: s.url + "/webhooks/finch", PublicURL: "http://" + sandboxes.Addr().String(),
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.sandbox.Close() })
		serve(t, sandboxes, s.sandbox)
		finchClients["sandbox"] = finch.New(finch.Config{
			BaseURL: "http://" + sandboxes.Addr().String(), ClientID: sandboxClientID, ClientSecret: sandboxClientSecret, Timeout: 5 * time.Second,
		})
		connectHosts = append(connectHosts, sandboxes.Addr().String())
		further = []web.Application{{Name: "sandbox", ClientID: sandboxClientID, WebhookSecrets: []string{sandboxWebhookSecret}}}
	}
	providers := map[string]activities.Provider{}
	for name, client := range finchClients {
		providers[name] = activities.Finch{Client: client}
	}
	smtp, err := notify.NewSMTP(s.inbox.SMTPURL())
	require.NoError(t, err)
	settings := activities.Settings{
		PublicURL: s.url, MailFrom: "Payday <hello@product.example>", ProductName: "Payday", OperatorEmail: operatorMail, Webhooks: s.options.webhookURL != "",
	}
	if s.options.settings != nil {
		s.options.settings(&settings)
	}
	s.acts = &activities.Activities{
		DB: s.db, Keys: s.keys, Mail: smtp, Hand: s.starter, Cases: s.starter, Storms: s.starter, Steer: s.starter, Finds: s.starter, Settings: settings, Logger: s.logger(), Now: time.Now,
		Providers: providers,
	}
	handler, err := web.New(web.Config{
		DB: s.db, Keys: s.keys, Starter: outsideStarter,
		Introspect: func(ctx context.Context, application string, token secrets.Secret) (finch.Introspection, error) {
			return finchClients[application].Introspect(ctx, token.Reveal())
		},
		Disconnect: func(ctx context.Context, application string, token secrets.Secret) error {
			return finchClients[application].Disconnect(ctx, token.Reveal())
		},
		Job: func(ctx context.Context, _ string, token secrets.Secret, jobID string) (finch.Job, error) {
			return finchClient.Job(ctx, token.Reveal(), jobID)
		},
		TemporalHealth: func(ctx context.Context) error {
			_, err := outside.CheckHealth(ctx, nil)
			return err
		},
		PublicURL: s.url, ConnectHosts: connectHosts, Applications: further, ProductName: "Payday",
		FinchWebhookSecrets: []string{webhookSecret}, BootstrapAPIKey: apiKey, Logger: s.logger(),
	})
	require.NoError(t, err)
	serve(t, ours, handler)
	forwarding, stopForwarding := context.WithCancel(ctx)
	var forwarded sync.WaitGroup
	forwarded.Go(func() {
		web.Forwarder{DB: s.db, Keys: s.keys, Starter: outsideStarter, Logger: s.logger(), Every: 200 * time.Millisecond}.Run(forwarding)
	})
	forwarded.Go(func() { handler.ActOnWebhooks(forwarding) })
	t.Cleanup(func() { stopForwarding(); forwarded.Wait() })
	if !s.options.noWorker {
		s.startWorker()
		t.Cleanup(func() { s.stopWorker() })
	}
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func serve(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}} //nolint:gosec // a test's server
	server.Start()
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
}

func (s *stack) startWorker() {
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	s.stop, s.stopped = stop, stopped
	here, err := outbound.Parse(outbound.Loopback)
	require.NoError(s.t, err)
	go func() {
		defer close(stopped)
		err := worker.Run(ctx, worker.Config{
			Temporal: s.temporal, Activities: s.acts, DB: s.db, TaskQueue: s.taskQueue, Logger: s.logger(),
			WebhookURL: s.options.webhookURL, WebhookSecret: webhookSecret, Outbound: here,
			Chat: s.options.chat,
		})
		if err != nil {
			s.logger().Error("worker", "error", err)
		}
	}()
}

func (s *stack) stopWorker() {
	if s.stop != nil {
		s.stop()
		<-s.stopped
		s.stop = nil
	}
}

// logs keeps every log line.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *stack) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// call makes one API call and returns its status and body.
func (s *stack) call(method, path string, body any) (int, map[string]any) {
	s.t.Helper()
	status, raw := s.request(method, path, body, apiKey)
	var out map[string]any
	if len(raw) > 0 {
		require.NoError(s.t, json.Unmarshal(raw, &out), "%s %s answered %s", method, path, raw)
	}
	return status, out
}

func (s *stack) request(method, path string, body any, key string) (int, []byte) {
	s.t.Helper()
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		require.NoError(s.t, err)
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequest(method, s.url+path, reader)
	require.NoError(s.t, err)
	request.Header.Set("Authorization", "Bearer "+key)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response.StatusCode, raw
}

// customer is a connection at Finch that is registered with us.
type customer struct {
	id, token string
}

func (s *stack) register(contacts ...reauth.Contact) customer {
	s.t.Helper()
	if contacts == nil {
		contacts = []reauth.Contact{{Email: customerMail, Name: "Pat Payroll", TimeZone: "America/New_York"}}
	}
	connection, token, err := s.sim.AddConnection(finchsim.NewConnection{CustomerName: "Acme Bakery"})
	require.NoError(s.t, err)
	status, body := s.call(http.MethodPut, "/v1/connections/"+connection.ID, map[string]any{
		"customer_id": "cus-1", "customer_name": "Acme Bakery", "contacts": contacts, "access_token": token,
	})
	require.Equal(s.t, http.StatusCreated, status, "%v; the log ends\n%s", body, tail(s.logs.String(), 3000))
	return customer{connection.ID, token}
}

// stale is a registered connection that Finch has stopped serving, of which
// its webhooks say nothing: on some plans there are none.
func (s *stack) stale() customer {
	s.t.Helper()
	c := s.register()
	webhooks := s.sim.Knobs().Webhooks
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = false })
	require.NoError(s.t, s.sim.Break(c.id))
	s.knobs(func(k *finchsim.Knobs) { k.Webhooks = webhooks })
	return c
}

// report reports a stale connection over HTTP and returns the answer.
func (s *stack) report(c customer, extra map[string]any) (int, map[string]any) {
	s.t.Helper()
	body := map[string]any{"source": "api_error", "finch_code": "reauthenticate_user"}
	for k, v := range extra {
		body[k] = v
	}
	return s.call(http.MethodPost, "/v1/connections/"+c.id+"/reauth", body)
}

// start opens a case straight through Temporal, as any language's client may.
func (s *stack) start(in reauth.Input) {
	s.t.Helper()
	if in.Source == "" {
		in.Source, in.FinchCode = reauth.SourceAPIError, "reauthenticate_user"
	}
	_, err := s.temporal.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{
		ID: reauth.WorkflowID(in.ConnectionID), TaskQueue: s.taskQueue, WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, reauth.WorkflowType, in)
	require.NoError(s.t, err)
}

// eventually waits for something to become true.
func (s *stack) eventually(what string, condition func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain until %s; the log ends\n%s", what, tail(s.logs.String(), 4000))
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func tail(text string, n int) string {
	if len(text) > n {
		return text[len(text)-n:]
	}
	return text
}

func (s *stack) status(c customer) reauth.Status {
	s.t.Helper()
	var status reauth.Status
	s.eventually("the case answers a query", func() bool { // its worker may just be starting
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		answer, err := s.temporal.QueryWorkflow(ctx, reauth.WorkflowID(c.id), "", reauth.QueryStatus)
		return err == nil && answer.Get(&status) == nil
	})
	return status
}

func (s *stack) awaitPhase(c customer, phase reauth.Phase) {
	s.t.Helper()
	s.eventually("the phase is "+string(phase), func() bool { return s.status(c).Phase == phase })
}

// result waits for the end of the newest case.
func (s *stack) result(c customer) reauth.Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var result reauth.Result
	err := s.temporal.GetWorkflow(ctx, reauth.WorkflowID(c.id), "").Get(ctx, &result)
	require.NoError(s.t, err, "the log ends\n%s", tail(s.logs.String(), 4000))
	return result
}

func (s *stack) signal(c customer, name string, message any) {
	s.t.Helper()
	require.NoError(s.t, s.temporal.SignalWorkflow(context.Background(), reauth.WorkflowID(c.id), "", name, message))
}

// mails lists what an address has got, in order.
func (s *stack) mails(address string) []inbox.Message {
	var out []inbox.Message
	for _, m := range s.inbox.Messages() {
		if slices.Contains(m.To, address) {
			out = append(out, m)
		}
	}
	return out
}

// link waits for the customer's first mail and returns its link.
func (s *stack) link() string {
	s.t.Helper()
	var link string
	s.eventually("a mail with a link has come", func() bool {
		for _, m := range s.mails(customerMail) {
			for _, l := range m.Links {
				if strings.HasPrefix(l, s.url+"/r/") {
					link = l
				}
			}
		}
		return link != ""
	})
	return link
}

// browser is a person's browser: it keeps cookies and follows redirects.
type browser struct {
	t      *testing.T
	client *http.Client
	seen   *bytes.Buffer // every page, for the scan of secrets
	codes  []string      // those that came back from Connect
	last   string        // the last callback
}

func (s *stack) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	b := &browser{t: s.t, client: &http.Client{Jar: jar, Timeout: 30 * time.Second}, seen: &bytes.Buffer{}}
	b.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if code := r.URL.Query().Get("code"); strings.HasPrefix(r.URL.Path, "/callback") && code != "" {
			b.codes, b.last = append(b.codes, code), r.URL.String()
		}
		return nil
	}
	return b
}

// page is what a browser shows.
type page struct {
	url    *url.URL
	status int
	body   string
	header http.Header
}

func (b *browser) do(request *http.Request) page {
	b.t.Helper()
	response, err := b.client.Do(request)
	require.NoError(b.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	b.seen.Write(raw)
	return page{response.Request.URL, response.StatusCode, string(raw), response.Header}
}

func (b *browser) get(address string) page {
	b.t.Helper()
	request, err := http.NewRequest(http.MethodGet, address, nil)
	require.NoError(b.t, err)
	return b.do(request)
}

// press submits the form of a page whose button has the ID, or its first form.
func (b *browser) press(p page, button string) page {
	b.t.Helper()
	form := findForm(b.t, p, button)
	target, err := p.url.Parse(form.action)
	require.NoError(b.t, err)
	request, err := http.NewRequest(http.MethodPost, target.String(), strings.NewReader(form.values.Encode()))
	require.NoError(b.t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", p.url.Scheme+"://"+p.url.Host)
	return b.do(request)
}

type form struct {
	action string
	values url.Values
}

func findForm(t *testing.T, p page, button string) form {
	t.Helper()
	root, err := html.Parse(strings.NewReader(p.body))
	require.NoError(t, err)
	var found *form
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "form" && found == nil {
			f := form{attr(n, "action"), url.Values{}}
			has := button == ""
			for d := range n.Descendants() {
				if d.Type != html.ElementNode {
					continue
				}
				if button != "" && attr(d, "id") == button {
					has = true
					if attr(d, "name") != "" {
						f.values.Set(attr(d, "name"), attr(d, "value"))
					}
				}
				if d.Data == "input" && attr(d, "name") != "" {
					f.values.Set(attr(d, "name"), attr(d, "value"))
				}
			}
			if has {
				found = &f
			}
		}
		for child := range n.ChildNodes() {
			walk(child)
		}
	}
	walk(root)
	require.NotNil(t, found, "the page at %s has no form with the button %q:\n%s", p.url.Path, button, p.body)
	return *found
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// toConnect opens the mail's link and presses its button, which leads to Connect.
func (s *stack) toConnect(b *browser, link string) page {
	s.t.Helper()
	p := b.press(b.get(link), "")
	for strings.HasPrefix(p.url.String(), s.url+"/r/") { // the session was not there yet
		p = b.press(s.settle(b, p), "")
	}
	require.Contains(s.t, p.url.String(), s.finchURL, "the button leads to Connect, not to\n%s", p.body)
	return p
}

// settle reloads the page after Connect until it no longer says to wait.
func (s *stack) settle(b *browser, p page) page {
	s.t.Helper()
	s.eventually("the page after Connect has an answer", func() bool {
		if !strings.Contains(p.body, `http-equiv="refresh"`) {
			return true
		}
		time.Sleep(100 * time.Millisecond)
		p = b.get(p.url.String())
		return false
	})
	return p
}

// reconnect is everything that the customer does.
func (s *stack) reconnect(b *browser) page {
	s.t.Helper()
	return s.settle(b, b.press(s.toConnect(b, s.link()), "authorize"))
}

// history reads a case's history, run by run ID or the newest.
func (s *stack) history(workflowID, runID string) *historypb.History {
	s.t.Helper()
	h := &historypb.History{}
	iterator := s.temporal.GetWorkflowHistory(context.Background(), workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for iterator.HasNext() {
		event, err := iterator.Next()
		require.NoError(s.t, err)
		h.Events = append(h.Events, event)
	}
	return h
}

func count(h *historypb.History, kind enumspb.EventType) int {
	n := 0
	for _, e := range h.GetEvents() {
		if e.GetEventType() == kind {
			n++
		}
	}
	return n
}

// apiWorks makes the backend's own call with the stored token.
func (s *stack) apiWorks(c customer) bool {
	s.t.Helper()
	status, body := s.call(http.MethodGet, "/v1/connections/"+c.id+"/token", nil)
	require.Equal(s.t, http.StatusOK, status, "%v", body)
	return finch.New(finch.Config{BaseURL: s.finchURL}).Company(context.Background(), fmt.Sprint(body["access_token"])) == nil
}
