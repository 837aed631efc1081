package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/finch-reauth/reauth/dev/postgres"
	"github.com/finch-reauth/reauth/dev/temporal"
	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/web"
	"github.com/finch-reauth/reauth/worker/clock"
)

const (
	// startTimeout bounds how long a single part may take to become ready.
	startTimeout = 90 * time.Second
	// database is ours in the PostgreSQL that we run.
	database = "reauth"
	// databaseFile holds its address, with the password.
	databaseFile = "database-url"
)

// Options say what Start runs, and where.
type Options struct {
	// Data is the folder that keeps everything. What is there is resumed.
	Data string
	// Temporary says that Data goes away afterwards, so nobody needs to hear
	// what was made there.
	Temporary bool
	// ReadyFile, if any, is written once everything answers, kept up to date
	// and removed at the end.
	ReadyFile string
	// Ports are those that must be taken as they are; 0 leaves the choice to
	// Start: the defaults, or free ones with AutoPorts.
	Ports     Ports
	AutoPorts bool
	// Speed is how many times as fast as the real one the clock is by which cases
	// live; everything else stays in real time. The first start chooses it for
	// good: 0 resumes with what Data has, which is real time in a new folder.
	Speed int
	// Program is the reauth binary that the parts run; this one if empty.
	Program string
	// Environ is the environment for the parts; their own settings are added.
	Environ []string
	// Finch makes the parts talk to the real Finch; nil means the simulator.
	Finch *RealFinch
	// DatabaseURL, if any, is used instead of a PostgreSQL of our own.
	DatabaseURL string
	// Keyset, if any, is used instead of one made in Data.
	Keyset string
	// PublicURL, if any, is where browsers reach the service.
	PublicURL string
	// Out is told what happens, for people.
	Out io.Writer
}

// RealFinch says how to reach the real Finch, and as which application.
type RealFinch struct {
	FinchCredentials
	BaseURL string
}

// Environment is everything that Start has started.
type Environment struct {
	options    Options
	folder     *folder
	clock      *clock.Fast // nil: the real one
	ports      *portClaim
	supervisor *Supervisor
	postgres   *postgres.Server

	ready  Ready
	keyset string

	stopping     context.Context // ends with Stop
	beginStop    context.CancelFunc
	postgresKept chan struct{} // closed when nothing starts PostgreSQL any more
	stop         sync.Once

	mu      sync.Mutex
	settled bool // the ready file is kept from now on
}

// Start runs PostgreSQL, Temporal with its web UI, the simulated Finch, a mail
// server with an inbox page, the worker and the HTTP service, and returns once
// all of them answer. They run until Stop is called; whatever happens to this
// process, they do not outlive it.
func Start(ctx context.Context, options Options) (*Environment, error) {
	if options.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		options.Program = self
	}
	e := &Environment{options: options, postgresKept: make(chan struct{})}
	e.stopping, e.beginStop = context.WithCancel(context.Background())
	if err := e.start(ctx); err != nil {
		e.Stop()
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return e, nil
}

func (e *Environment) start(ctx context.Context) (err error) {
	if e.folder, err = openFolder(e.options.Data); err != nil {
		return err
	}
	if e.clock, err = e.folder.clock(e.options.Speed); err != nil {
		return err
	}
	if e.ports, err = claimPorts(e.options.Ports, e.options.AutoPorts, e.folder.file("ports.json")); err != nil {
		return err
	}
	if e.options.ReadyFile != "" {
		// One that a killed predecessor left behind would mislead.
		if err := os.Remove(e.options.ReadyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the old ready file: %w", err)
		}
	}
	if err := e.prepare(); err != nil {
		return err
	}
	if e.supervisor, err = NewSupervisor(e.folder.file("logs"), e.say, e.pidsChanged); err != nil {
		return err
	}

	e.say("starting PostgreSQL, Temporal, a mail server%s ...", map[bool]string{true: "", false: " and a simulated Finch"}[e.options.Finch != nil])
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.startPostgres(groupCtx) })
	group.Go(func() error { return e.startTemporal(groupCtx) })
	group.Go(func() error { return e.startPart(groupCtx, e.inbox()) })
	if e.options.Finch == nil {
		group.Go(func() error { return e.startPart(groupCtx, e.finch()) })
	}
	if err := group.Wait(); err != nil {
		return err
	}

	migration, cancel := context.WithTimeoutCause(ctx, startTimeout, errTooSlow)
	defer cancel()
	if err := e.supervisor.Run(migration, e.part("migrate", e.service(), "migrate")); err != nil {
		return err
	}

	e.say("starting the worker and the HTTP service ...")
	group, groupCtx = errgroup.WithContext(ctx)
	group.Go(func() error { return e.startPart(groupCtx, e.worker()) })
	group.Go(func() error { return e.startPart(groupCtx, e.serve()) })
	return group.Wait()
}

var errTooSlow = errors.New("it took too long")

// Stop ends everything in order, those first who need the others.
func (e *Environment) Stop() {
	e.stop.Do(func() {
		e.mu.Lock()
		settled := e.settled
		e.settled = false
		e.mu.Unlock()
		if settled && e.options.ReadyFile != "" {
			_ = os.Remove(e.options.ReadyFile)
		}
		if e.supervisor != nil {
			e.supervisor.Stop("serve", "worker", "finch", "inbox", "temporal")
		}
		e.beginStop()
		if e.postgres != nil {
			<-e.postgresKept
			if err := e.postgres.Stop(); err != nil {
				e.say("%v", err)
			}
		}
		if e.supervisor != nil {
			e.supervisor.Close()
		}
		if e.ports != nil {
			e.ports.release()
		}
		if e.folder != nil {
			e.folder.close()
		}
	})
}

// Ready tells where everything is now.
func (e *Environment) Ready() Ready {
	r := e.ready
	r.Pids = map[string]int{"dev": os.Getpid()}
	maps.Copy(r.Pids, e.supervisor.Pids())
	if e.postgres != nil {
		r.Pids["postgres"] = e.postgres.Pid()
	}
	return r
}

// Announce writes the ready file and keeps it up to date.
func (e *Environment) Announce() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settled = true
	if e.options.ReadyFile == "" {
		return nil
	}
	return e.Ready().write(e.options.ReadyFile)
}

func (e *Environment) pidsChanged() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.settled || e.options.ReadyFile == "" {
		return
	}
	if err := e.Ready().write(e.options.ReadyFile); err != nil {
		e.say("%v", err)
	}
}

func (e *Environment) say(format string, args ...any) {
	fmt.Fprintf(e.options.Out, format+"\n", args...)
}

// prepare makes or reads what the parts need to know of each other.
func (e *Environment) prepare() error {
	if e.keyset = e.options.Keyset; e.keyset == "" {
		_, made, err := e.folder.secretFile("keyset", generateKeyset)
		if err != nil {
			return err
		}
		e.keyset = "file:" + e.folder.file("keyset")
		if made && !e.options.Temporary {
			e.say("made a keyset, which seals the tokens kept here: %s", e.folder.file("keyset"))
		}
	}
	key, made, err := e.folder.secretFile("api-key", generateAPIKey)
	if err != nil {
		return err
	}
	if made && !e.options.Temporary {
		e.say("made an API key: %s", e.folder.file("api-key"))
	}

	finch := RealFinch{BaseURL: local(e.ports.Finch)}
	if e.options.Finch != nil {
		finch = *e.options.Finch
	} else if finch.FinchCredentials, err = e.folder.simulatedCredentials(); err != nil {
		return err
	}
	e.ready = Ready{
		APIURL:             local(e.ports.API),
		APIKey:             key,
		InboxURL:           local(e.ports.Inbox),
		FinchURL:           finch.BaseURL,
		FinchClientID:      finch.ClientID,
		FinchClientSecret:  finch.ClientSecret,
		FinchWebhookSecret: finch.WebhookSecret,
		TemporalAddress:    address(e.ports.Temporal),
		TemporalNamespace:  temporal.Namespace,
		TemporalUIURL:      local(e.ports.UI),
		DatabaseURL:        e.options.DatabaseURL,
		SMTPAddress:        address(e.ports.SMTP),
		Data:               e.folder.path,
	}
	return nil
}

func local(port int) string { return "http://" + address(port) }

func (e *Environment) publicURL() string {
	if e.options.PublicURL != "" {
		return e.options.PublicURL
	}
	return e.ready.APIURL
}

func (e *Environment) startPostgres(ctx context.Context) error {
	if e.options.DatabaseURL != "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errTooSlow) // it may have to be fetched
	defer cancel()
	server, err := postgres.Start(ctx, postgres.Options{
		Dir: e.folder.file("postgres"), Port: e.ports.Postgres, Log: func(line string) { e.say("%s", line) },
	})
	if err != nil {
		return err
	}
	e.postgres = server
	e.supervisor.launch.watch(server.Pid())
	go e.keepPostgres(server)
	e.ready.DatabaseURL = server.URL(database)
	if err := writeFile(e.folder.file(databaseFile), []byte(e.ready.DatabaseURL+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the database's address down: %w", err)
	}
	return server.EnsureDatabase(ctx, database)
}

// keepPostgres starts PostgreSQL again whenever it ends, until Stop.
func (e *Environment) keepPostgres(server *postgres.Server) {
	defer close(e.postgresKept)
	for backoff := firstBackoff; ; {
		began := time.Now()
		select {
		case <-server.Done():
		case <-e.stopping.Done():
			return
		}
		if time.Since(began) > steady {
			backoff = firstBackoff
		}
		e.say("postgres ended; starting it again")
		for {
			select {
			case <-time.After(backoff):
			case <-e.stopping.Done():
				return
			}
			backoff = min(2*backoff, maxBackoff)
			err := server.Restart(e.stopping)
			if err == nil {
				break
			}
			if e.stopping.Err() == nil {
				e.say("postgres cannot be started: %v", err)
			}
		}
		e.supervisor.launch.watch(server.Pid())
		e.pidsChanged()
	}
}

func (e *Environment) startTemporal(ctx context.Context) error {
	program, err := temporal.Binary(ctx, e.options.Out)
	if err != nil {
		return err
	}
	server := temporal.Server{
		Port: e.ports.Temporal, UIPort: e.ports.UI,
		File:          e.folder.file(temporalFile),
		CodecEndpoint: e.ready.APIURL + "/codec",
	}
	return e.startPart(ctx, Part{
		Name: "temporal", Command: program, Args: server.Args(), Env: e.environ(nil), Ready: server.Ready,
	})
}

func (e *Environment) startPart(ctx context.Context, part Part) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errTooSlow)
	defer cancel()
	return e.supervisor.Start(ctx, part)
}

// part is a process of the reauth program.
func (e *Environment) part(name string, settings map[string]string, args ...string) Part {
	return Part{Name: name, Command: e.options.Program, Args: args, Env: e.environ(settings)}
}

func (e *Environment) inbox() Part {
	part := e.part("inbox", nil, "dev-inbox",
		"--http", address(e.ports.Inbox), "--smtp", address(e.ports.SMTP), "--dir", e.folder.file("mail"))
	part.Ready = func(ctx context.Context) error {
		return errors.Join(answers(ctx, e.ready.InboxURL+"/api/messages"), greets(ctx, e.ready.SMTPAddress))
	}
	return part
}

func (e *Environment) finch() Part {
	part := e.part("finch", map[string]string{
		"FINCH_CLIENT_ID":      e.ready.FinchClientID,
		"FINCH_CLIENT_SECRET":  e.ready.FinchClientSecret,
		"FINCH_WEBHOOK_SECRET": e.ready.FinchWebhookSecret,
	}, "dev-finch",
		"--http", address(e.ports.Finch), "--file", e.folder.file("finch.json"),
		"--redirect-uri", e.publicURL()+"/callback", "--webhook-url", e.ready.APIURL+"/webhooks/finch")
	part.Ready = func(ctx context.Context) error { return answers(ctx, e.ready.FinchURL) }
	return part
}

// service are the settings that the worker and the HTTP service share.
func (e *Environment) service() map[string]string {
	settings := map[string]string{
		"DATABASE_URL":           e.ready.DatabaseURL,
		"TEMPORAL_ADDRESS":       e.ready.TemporalAddress,
		"TEMPORAL_NAMESPACE":     e.ready.TemporalNamespace,
		"REAUTH_KEYSET":          e.keyset,
		"REAUTH_PUBLIC_URL":      e.publicURL(),
		"REAUTH_TEMPORAL_UI_URL": e.ready.TemporalUIURL,
		"FINCH_BASE_URL":         e.ready.FinchURL,
	}
	if e.options.Finch == nil {
		// The simulated Finch takes any number of calls, unless a knob says
		// otherwise, and with --speed a minute's calls come within moments.
		e.unlessSet(settings, "REAUTH_FINCH_LIMIT", "off")
	}
	return settings
}

func (e *Environment) worker() Part {
	settings := e.service()
	maps.Copy(settings, map[string]string{
		"FINCH_CLIENT_ID":     e.ready.FinchClientID,
		"FINCH_CLIENT_SECRET": e.ready.FinchClientSecret,
		"SMTP_URL":            "smtp://" + e.ready.SMTPAddress,
		"REAUTH_DEV_CLOCK":    "", // whatever it is where we were started
	})
	if e.clock != nil {
		settings["REAUTH_DEV_CLOCK"] = e.clock.String()
	}
	e.unlessSet(settings, "REAUTH_OUTBOUND_ALLOW", "loopback") // where the inbox is
	e.unlessSet(settings, "REAUTH_MAIL_FROM", "Acme Insights <connections@acme-insights.example>")
	e.unlessSet(settings, "REAUTH_PRODUCT_NAME", "Acme Insights")
	e.unlessSet(settings, "REAUTH_SUPPORT_EMAIL", "support@acme-insights.example")
	e.unlessSet(settings, "REAUTH_OPERATOR_EMAIL", "operations@acme-insights.example")
	part := e.part("worker", settings, "worker")
	part.Ready = e.workerPolls
	return part
}

func (e *Environment) serve() Part {
	settings := e.service()
	maps.Copy(settings, map[string]string{
		"REAUTH_HTTP_ADDR":         address(e.ports.API),
		"REAUTH_BOOTSTRAP_API_KEY": e.ready.APIKey,
		"FINCH_WEBHOOK_SECRET":     e.ready.FinchWebhookSecret,
		"REAUTH_CODEC_ORIGINS":     e.ready.TemporalUIURL + "," + strings.Replace(e.ready.TemporalUIURL, "127.0.0.1", "localhost", 1),
		"REAUTH_SIGN_IN_BY_KEY":    "true",
	})
	if web.LocalURL(e.publicURL()) { // nobody else can reach it
		settings["REAUTH_CODEC_OPEN"], settings["REAUTH_METRICS_OPEN"] = "true", "true"
	}
	e.unlessSet(settings, "REAUTH_PRODUCT_NAME", "Acme Insights")
	e.unlessSet(settings, "REAUTH_SUPPORT_EMAIL", "support@acme-insights.example")
	part := e.part("serve", settings, "serve")
	part.Ready = func(ctx context.Context) error { return answers(ctx, e.ready.APIURL+"/readyz") }
	return part
}

// unlessSet adds a setting that whoever started us may have chosen otherwise.
func (e *Environment) unlessSet(settings map[string]string, name, value string) {
	for _, given := range e.options.Environ {
		if strings.HasPrefix(given, name+"=") && len(given) > len(name)+1 {
			return
		}
	}
	settings[name] = value
}

// environ is the environment of a part. Temporal's own variables and its
// configuration file are kept away: they describe somebody else's server.
func (e *Environment) environ(settings map[string]string) []string {
	environ := slices.DeleteFunc(slices.Clone(e.options.Environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		_, ours := settings[name]
		return ours || strings.HasPrefix(name, "TEMPORAL_")
	})
	environ = append(environ, "TEMPORAL_CONFIG_FILE="+os.DevNull)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		environ = append(environ, name+"="+settings[name])
	}
	return environ
}

// workerPolls returns nil once a worker asks Temporal for work of both kinds.
func (e *Environment) workerPolls(ctx context.Context) error {
	c, err := client.DialContext(ctx, client.Options{HostPort: e.ready.TemporalAddress, Namespace: e.ready.TemporalNamespace, Logger: silent()})
	if err != nil {
		return err
	}
	defer c.Close()
	for _, kind := range []enumspb.TaskQueueType{enumspb.TASK_QUEUE_TYPE_WORKFLOW, enumspb.TASK_QUEUE_TYPE_ACTIVITY} {
		queue, err := c.DescribeTaskQueue(ctx, e.taskQueue(), kind)
		if err != nil {
			return err
		}
		if len(queue.GetPollers()) == 0 {
			return errors.New("it does not ask Temporal for work yet")
		}
	}
	return nil
}

func (e *Environment) taskQueue() string {
	for _, variable := range e.options.Environ {
		if queue, ok := strings.CutPrefix(variable, "REAUTH_TASK_QUEUE="); ok && queue != "" {
			return queue
		}
	}
	return reauth.TaskQueue
}

// answers returns nil if a GET of the URL succeeds.
func answers(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("%s answers %s %s", url, response.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// greets returns nil if a mail server answers.
func greets(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	_, _, err = textproto.NewConn(conn).ReadResponse(220)
	return err
}

func relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if short, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(short, "..") {
			return short
		}
	}
	return path
}
