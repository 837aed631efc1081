package finch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/finch-reauth/reauth/reauth"
)

// CodeBudget is the finch_code of a refusal that LimitTransport makes up: the
// call would have gone beyond Finch's limit, and was not sent.
const CodeBudget = "reauth_budget"

// Codes of Finch's own refusals that concern an IP address, and so every call
// from it.
const (
	codeAPIByIP  = "finch_api_ip_rl"
	codeAuthByIP = "finch_auth_ip_rl"
)

// HeaderUntil says in a made up refusal until when the call has to wait.
const HeaderUntil = "Reauth-Waits-Until"

// Call is what a Limiter has to know of a call.
type Call struct {
	Application string
	Endpoint    string // as EndpointOf names it
	Priority    Priority
	// Waiter tells who asks, so that whoever asks again keeps the place in the
	// line. It holds no secret.
	Waiter string
}

// Room is a Limiter's answer.
type Room struct {
	// Granted: the call may go out now, and is counted.
	Granted bool
	// Again is when to ask again; the place in the line is kept until a moment
	// after that.
	Again time.Duration
	// Until is when the call is likely to go out, which may be later.
	Until time.Time
}

// Limiter shares out what Finch allows, over all processes that call Finch for
// the same applications. Where calls want the same room, the more urgent gets
// it.
type Limiter interface {
	// Ask asks for room for one call.
	Ask(ctx context.Context, c Call) (Room, error)
	// Refused says that Finch refused a call for its limit. No such call goes
	// out before a time has passed, and no call at all if everything is set;
	// the Limiter chooses a time if Finch names none.
	Refused(ctx context.Context, c Call, after time.Duration, everything bool) error
	// Leave gives a place in the line up.
	Leave(ctx context.Context, c Call) error
}

// Fate is what became of a call at a LimitTransport.
type Fate string

// The fates of a call.
const (
	FateSent    Fate = "sent"
	FateWaits   Fate = "waits"   // refused by us, since there was no room
	FateRefused Fate = "refused" // sent, and refused by Finch for its limit
	FateBlind   Fate = "blind"   // sent without asking, since the limiter did not answer
)

// LimitTransport keeps the calls of one application within Finch's limits. It
// can stand under any client of Finch's API. A call for which there is no room
// is not sent: after a short wait the answer is a 429 as Finch's own, with the
// finch_code CodeBudget and a Retry-After. How urgent a call is, its context
// says (WithPriority).
type LimitTransport struct {
	// Base sends the calls; http.DefaultTransport if nil.
	Base http.RoundTripper
	// Limiter shares out the room. It is needed.
	Limiter Limiter
	// Application is whose calls these are.
	Application string
	// MaxWait is how long a call waits here for its room, rather than being
	// refused: 4 seconds if 0.
	MaxWait time.Duration
	// Count, if set, hears what became of each call.
	Count func(ctx context.Context, c Call, f Fate)
	// Logger hears of a limiter that does not answer; nobody does if nil.
	Logger *slog.Logger
	// Sleep waits, for tests with a clock of their own; nil is the real one.
	Sleep func(ctx context.Context, d time.Duration) error
}

const (
	defaultMaxWait = 4 * time.Second
	// askAtMost bounds what the limiter may take, since a code does not wait.
	askAtMost = 3 * time.Second
	// blindAgain is when to try again while the limiter does not answer.
	blindAgain = 5 * time.Second
	// maxLimitBody is enough of a refusal to read its finch_code.
	maxLimitBody = 64 << 10
)

// RoundTrip implements http.RoundTripper.
func (t *LimitTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	c := Call{Application: t.Application, Endpoint: EndpointOf(r), Priority: PriorityOf(ctx), Waiter: waiter(r)}
	room, err := t.wait(ctx, c)
	fate := FateSent
	switch {
	case ctx.Err() != nil:
		closeBody(r)
		return nil, ctx.Err()
	case err != nil && c.Priority == PriorityVerify:
		// A token or a code is in somebody's hand: better one call too many.
		fate = FateBlind
	case err != nil:
		t.count(ctx, c, FateWaits)
		return budgetSpent(r, "the calls to Finch cannot be counted just now", Room{Again: blindAgain}), nil
	case !room.Granted:
		t.count(ctx, c, FateWaits)
		return budgetSpent(r, "Finch's limit: waits until "+room.Until.UTC().Format("15:04:05 MST"), room), nil
	}
	t.count(ctx, c, fate)
	resp, err := t.base().RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		t.refused(ctx, c, resp)
	}
	return resp, err
}

// wait asks for room until there is some, but no longer than MaxWait.
func (t *LimitTransport) wait(ctx context.Context, c Call) (Room, error) {
	left := t.MaxWait
	if left == 0 {
		left = defaultMaxWait
	}
	for {
		asking, cancel := context.WithTimeout(ctx, askAtMost)
		room, err := t.Limiter.Ask(asking, c)
		cancel()
		if err != nil {
			if ctx.Err() == nil && t.Logger != nil {
				t.Logger.WarnContext(ctx, "the calls to Finch cannot be counted", "endpoint", c.Endpoint, "priority", c.Priority.String(), "error", err)
			}
			return Room{}, err
		}
		if room.Granted || room.Again > left {
			return room, nil
		}
		left -= max(room.Again, time.Millisecond)
		if err := t.sleep(ctx, room.Again); err != nil {
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), askAtMost)
			defer cancel()
			_ = t.Limiter.Leave(leaving, c) // a place that nobody takes is forgotten soon anyhow
			return Room{}, err
		}
	}
}

// refused tells the limiter that Finch has refused a call.
func (t *LimitTransport) refused(ctx context.Context, c Call, resp *http.Response) {
	t.count(ctx, c, FateRefused)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLimitBody))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), after(err, rest)), rest}
	var wire struct {
		FinchCode string `json:"finch_code"`
	}
	_ = decode(body, &wire)
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), askAtMost)
	defer cancel()
	everything := wire.FinchCode == codeAPIByIP || wire.FinchCode == codeAuthByIP
	if err := t.Limiter.Refused(telling, c, retryAfter(resp.Header), everything); err != nil && t.Logger != nil {
		t.Logger.WarnContext(ctx, "a refusal for Finch's limit was not noted", "endpoint", c.Endpoint, "error", err)
	}
}

// after is what follows of a body of which the beginning was read.
func after(err error, rest io.Reader) io.Reader {
	if err != nil {
		return failing{err}
	}
	return rest
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (t *LimitTransport) count(ctx context.Context, c Call, f Fate) {
	if t.Count != nil {
		t.Count(ctx, c, f)
	}
}

func (t *LimitTransport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

func (t *LimitTransport) sleep(ctx context.Context, d time.Duration) error {
	if t.Sleep != nil {
		return t.Sleep(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waiter tells apart who waits: a call with the same access token is the same
// one, in whichever process and however often it is tried.
func waiter(r *http.Request) string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return reauth.Fingerprint(token)
	}
	return rand.Text()
}

// budgetSpent is the answer to a call that was not sent.
func budgetSpent(r *http.Request, message string, room Room) *http.Response {
	closeBody(r)
	const status = http.StatusTooManyRequests
	body, _ := json.Marshal(map[string]any{ // as Finch writes it
		"statusCode": status, "status": status, "code": status,
		"name": "rate_limit_exceeded_error", "finch_code": CodeBudget, "message": message,
	})
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("Retry-After", strconv.Itoa(int(math.Ceil(room.Again.Seconds()))))
	h.Set("Retry-After-Ms", strconv.FormatInt(room.Again.Milliseconds()+1, 10))
	if !room.Until.IsZero() {
		h.Set(HeaderUntil, room.Until.UTC().Format(time.RFC3339))
	}
	return &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}
