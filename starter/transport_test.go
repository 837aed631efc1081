package starter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/finch-reauth/reauth/reauth"
	"github.com/finch-reauth/reauth/starter"
)

const (
	staleBody = `{"code":401,"name":"authentication_error","finch_code":"reauthenticate_user","message":"Please reauthenticate user"}`
	company   = "https://api.tryfinch.com/employer/company"
	people    = "https://api.tryfinch.com/employer/individual"

	headLimit  = 64 << 10 // how much of a 401 is read ahead
	batchLimit = 1 << 20  // how much of a batch is looked at
)

var batchBody = `{"responses":[` +
	`{"individual_id":"a","code":200,"body":{"first_name":"Ada"}},` +
	`{"individual_id":"b","code":401,"body":` + staleBody + `}]}`

// reports collects what was reported, and fails as it is told.
type reports struct {
	mu     sync.Mutex
	inputs []reauth.Input
	errs   []string
	fail   func(attempt int) error
}

func (r *reports) report(_ context.Context, in reauth.Input) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inputs = append(r.inputs, in)
	if r.fail != nil {
		return r.fail(len(r.inputs))
	}
	return nil
}

func (r *reports) onError(connectionID string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, connectionID+": "+err.Error())
}

func (r *reports) all() []reauth.Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]reauth.Input(nil), r.inputs...)
}

func (r *reports) errors() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.errs...)
}

func (r *reports) transport(base http.RoundTripper) *starter.Transport {
	t := starter.NewTransport(base, r.report)
	t.OnError = r.onError
	return t
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answers is a base that always gives the same answer.
func answers(status int, body string) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		return answer(r, status, io.NopCloser(strings.NewReader(body))), nil
	})
}

func answer(r *http.Request, status int, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: body, Request: r}
}

func call(t *testing.T, rt http.RoundTripper, url string, change ...func(*http.Request)) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(starter.WithConnection(t.Context(), "con-1"), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer token-1")
	for _, f := range change {
		f(req)
	}
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	return resp
}

// read reads an answer to its end and closes it.
func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return string(body)
}

// closed returns what was reported by the time the transport is closed.
func closed(t *testing.T, transport *starter.Transport, r *reports) []reauth.Input {
	t.Helper()
	require.NoError(t, transport.Close(t.Context()))
	return r.all()
}

func TestAStaleConnectionIsReported(t *testing.T) {
	var r reports
	transport := r.transport(answers(401, staleBody))
	require.Equal(t, staleBody, read(t, call(t, transport, company)))
	require.Equal(t, []reauth.Input{{
		ConnectionID: "con-1", Provider: reauth.Finch, Source: reauth.SourceAPIError,
		FinchCode: "reauthenticate_user", TokenFingerprint: reauth.Fingerprint("token-1"),
	}}, closed(t, transport, &r))
	require.Empty(t, r.errors())
}

func TestWhatMeansAStaleConnection(t *testing.T) {
	item := func(body string) string { return `{"responses":[{"code":401,"body":` + body + `}]}` }
	for name, test := range map[string]struct {
		url    string
		status int
		body   string
		want   int
	}{
		"401":                            {company, 401, staleBody, 1},
		"401 with blanks":                {company, 401, "\n {\"finch_code\" : \"reauthenticate_user\" }", 1},
		"401 after a nested value":       {company, 401, `{"details":{"a":[1,{"b":2}]},"finch_code":"reauthenticate_user"}`, 1},
		"401 cut off after the code":     {company, 401, `{"finch_code":"reauthenticate_user","mess`, 1},
		"401 of a batch endpoint":        {people, 401, staleBody, 1},
		"401 with another code":          {company, 401, `{"finch_code":"unheard_of","message":"not reauthenticate_user"}`, 0},
		"401 with the code as text":      {company, 401, `{"message":"reauthenticate_user"}`, 0},
		"401 with the code as a name":    {company, 401, `{"name":"reauthenticate_user"}`, 0},
		"401 with the code as a key":     {company, 401, `{"reauthenticate_user":"finch_code"}`, 0},
		"401 with the code further down": {company, 401, `{"error":{"finch_code":"reauthenticate_user"}}`, 0},
		"401 with the code in a list":    {company, 401, `[{"finch_code":"reauthenticate_user"}]`, 0},
		"401 with a list of codes":       {company, 401, `{"finch_code":["reauthenticate_user"]}`, 0},
		"401 with an empty key":          {company, 401, `{"a":{"":"reauthenticate_user"}}`, 0},
		"401 that is a string":           {company, 401, `"reauthenticate_user"`, 0},
		"401 cut off before the code":    {company, 401, `{"message":"reauthenticate_user","finch_co`, 0},
		"401 cut off within the code":    {company, 401, `{"message":"reauthenticate_user","finch_code":"reauthenticate_u`, 0},
		"401 in HTML":                    {company, 401, `<p>finch_code: reauthenticate_user</p>`, 0},
		"401 nested without end":         {company, 401, strings.Repeat("[", 60_000) + `"reauthenticate_user"`, 0},
		"401 without a body":             {company, 401, ``, 0},
		"400":                            {company, 400, staleBody, 0},
		"403":                            {company, 403, staleBody, 0},
		"500":                            {company, 500, staleBody, 0},
		"200 that is no batch":           {company, 200, batchBody, 0},
		"batch":                          {people, 200, batchBody, 1},
		"batch of employments":           {"https://api.tryfinch.com/employer/employment", 200, batchBody, 1},
		"batch of pay statements":        {"https://api.tryfinch.com/employer/pay-statement", 200, batchBody, 1},
		"batch behind a proxy":           {"https://proxy/finch/employer/individual/?a=b", 200, batchBody, 1},
		"batch with an early item":       {people, 200, item(staleBody), 1},
		"batch cut off":                  {people, 200, strings.TrimSuffix(batchBody, `}]}`), 1},
		"batch without errors":           {people, 200, `{"responses":[{"code":200,"body":{"first_name":"Ada"}}]}`, 0},
		"batch with another code":        {people, 200, item(`{"finch_code":"x","message":"reauthenticate_user"}`), 0},
		"batch with the code in a name":  {people, 200, item(`{"first_name":"reauthenticate_user"}`), 0},
		"batch with a deeper code":       {people, 200, item(`{"emails":[{"finch_code":"reauthenticate_user"}]}`), 0},
		"batch with a code at the top":   {people, 200, staleBody, 0},
		"batch with no list":             {people, 200, `{"responses":{"[]":{"body":` + staleBody + `}}}`, 0},
		"batch that is a list":           {people, 200, `[{"body":` + staleBody + `}]`, 0},
		"batch with strange items":       {people, 200, `{"responses":[null,1,"body",[],{"body":null},{"body":[]}],"x":"reauthenticate_user"}`, 0},
		"strange items, then a stale":    {people, 200, `{"responses":[null,1,"body",[],{"body":[1]},{"body":` + staleBody + `}]}`, 1},
		"batch of another kind":          {"https://api.tryfinch.com/employer/payment", 200, batchBody, 0},
		"202":                            {people, 202, batchBody, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var r reports
			transport := r.transport(answers(test.status, test.body))
			require.Equal(t, test.body, read(t, call(t, transport, test.url)))
			require.Len(t, closed(t, transport, &r), test.want)
			require.Empty(t, r.errors())
		})
	}
}

func TestWhoseConnectionItIs(t *testing.T) {
	byHeader := func(req *http.Request) string { return req.Header.Get("X-Connection") }
	for name, test := range map[string]struct {
		connection func(*http.Request) string
		change     func(*http.Request)
		want       string
		err        string
	}{
		"by the context":             {nil, func(*http.Request) {}, "con-1", ""},
		"by the function":            {byHeader, func(r *http.Request) { r.Header.Set("X-Connection", "con-2") }, "con-2", ""},
		"by the context, failing it": {byHeader, func(*http.Request) {}, "con-1", ""},
		"by its token alone":         {nil, func(r *http.Request) { *r = *r.WithContext(context.Background()) }, "", ""},
		"by nothing": {nil, func(r *http.Request) {
			*r = *r.WithContext(context.Background())
			r.Header.Del("Authorization")
		}, "", ": " + starter.ErrNoConnection.Error()},
		"by something that is no ID": {byHeader, func(r *http.Request) { r.Header.Set("X-Connection", "a b") }, "", "a b: connection_id must be"},
	} {
		t.Run(name, func(t *testing.T) {
			var r reports
			transport := r.transport(answers(401, staleBody))
			transport.Connection = test.connection
			require.Equal(t, staleBody, read(t, call(t, transport, company, test.change)))
			got := closed(t, transport, &r)
			if test.err != "" {
				require.Empty(t, got)
				require.Len(t, r.errors(), 1)
				require.Contains(t, r.errors()[0], test.err)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, test.want, got[0].ConnectionID)
		})
	}
}

func TestTheTokensFingerprint(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer token-2": reauth.Fingerprint("token-2"), "bearer  token-2 ": reauth.Fingerprint("token-2"),
		"Basic token-2": "", "Bearer": "", "Bearer ": "", "": "", "token-2": "",
	} {
		var r reports
		transport := r.transport(answers(401, staleBody))
		read(t, call(t, transport, company, func(req *http.Request) { req.Header.Set("Authorization", header) }))
		got := closed(t, transport, &r)
		require.Len(t, got, 1, header)
		require.Equal(t, want, got[0].TokenFingerprint, header)
	}
}

func TestTheTokenThatBaseAddsIsFingerprintedToo(t *testing.T) {
	var r reports
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer token-2")
		return answer(req, 401, io.NopCloser(strings.NewReader(staleBody))), nil
	}))
	read(t, call(t, transport, company, func(req *http.Request) { req.Header.Del("Authorization") }))
	got := closed(t, transport, &r)
	require.Equal(t, reauth.Fingerprint("token-2"), got[0].TokenFingerprint)
}

// body counts how a body is used.
type body struct {
	io.Reader
	reads, closes atomic.Int32
	closeErr      error
}

func (b *body) Read(p []byte) (int, error) { b.reads.Add(1); return b.Reader.Read(p) }
func (b *body) Close() error               { b.closes.Add(1); return b.closeErr }

// TestTheCallerReadsWhatItWouldReadWithout compares, for bodies of every size
// and readers of every manner, the bytes and the error with those of the
// answer itself.
func TestTheCallerReadsWhatItWouldReadWithout(t *testing.T) {
	broken := errors.New("connection reset")
	sizes := []int{0, 1, len(staleBody), 4095, 4096, 4097, headLimit - 1, headLimit, headLimit + 1, 3*headLimit + 7, batchLimit, batchLimit + 1}
	readers := map[string]func(string) io.Reader{
		"plainly":           func(s string) io.Reader { return strings.NewReader(s) },
		"in halves":         func(s string) io.Reader { return iotest.HalfReader(strings.NewReader(s)) },
		"EOF with the data": func(s string) io.Reader { return iotest.DataErrReader(strings.NewReader(s)) },
		"breaking off":      func(s string) io.Reader { return io.MultiReader(strings.NewReader(s), iotest.ErrReader(broken)) },
		"breaking off with the data": func(s string) io.Reader {
			return iotest.DataErrReader(io.MultiReader(strings.NewReader(s), iotest.ErrReader(broken)))
		},
		"cut off": func(s string) io.Reader {
			return io.MultiReader(strings.NewReader(s), iotest.ErrReader(io.ErrUnexpectedEOF))
		},
	}
	maps.Copy(readers, map[string]func(string) io.Reader{
		"byte by byte": func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) },
	})
	callers := map[string]func(io.Reader) io.Reader{
		"a plain caller":      func(r io.Reader) io.Reader { return r },
		"a byte-wise caller":  func(r io.Reader) io.Reader { return iotest.OneByteReader(r) },
		"a caller with 1 MiB": func(r io.Reader) io.Reader { return &wide{r: r, buf: make([]byte, 1<<20)} },
	}
	for _, of := range []struct {
		name   string
		url    string
		status int
		text   string
	}{
		{"401", company, 401, staleBody}, {"403", company, 403, permissionBody}, {"batch", people, 200, batchBody},
		{"job", jobs + "/j-1", 200, `{"status":"reauth_error"}`}, {"introspection", introspection, 200, `{"connection_status":{"status":"reauth"}}`},
	} {
		for _, size := range sizes {
			text := of.text
			text += strings.Repeat(" x", max(0, size-len(text)))[:max(0, size-len(text))]
			text = text[:size]
			for how, reader := range readers {
				for who, caller := range callers {
					if size > headLimit+1 && (how == "byte by byte" || who == "a byte-wise caller") {
						continue // the same, but slow
					}
					name := fmt.Sprintf("%s, %d bytes, %s, %s", of.name, size, how, who)
					want, wantErr := io.ReadAll(reader(text))
					original := &body{Reader: reader(text), closeErr: errors.New("close failed")}
					var r reports
					transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						return answer(req, of.status, original), nil
					}))
					resp := call(t, transport, of.url)
					got, err := io.ReadAll(caller(resp.Body))
					if !bytes.Equal(want, got) {
						require.Fail(t, "the bytes differ", name)
					}
					require.Equal(t, wantErr, err, name)
					require.Zero(t, original.closes.Load(), name)
					require.Same(t, original.closeErr, resp.Body.Close(), name)
					require.EqualValues(t, 1, original.closes.Load(), name)
					stale := 0
					if size >= len(of.text) {
						stale = 1
					}
					require.Len(t, closed(t, transport, &r), stale, name)
				}
			}
		}
	}
}

// wide reads with a large buffer, whatever it is asked with.
type wide struct {
	r    io.Reader
	buf  []byte
	rest []byte
	err  error
}

func (w *wide) Read(p []byte) (int, error) {
	if len(w.rest) == 0 && w.err == nil {
		n, err := w.r.Read(w.buf)
		w.rest, w.err = w.buf[:n], err
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	if len(w.rest) == 0 {
		return n, w.err
	}
	return n, nil
}

func TestABatchIsReadOnlyAsTheCallerReads(t *testing.T) {
	original := &body{Reader: strings.NewReader(batchBody)}
	var r reports
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) { return answer(req, 200, original), nil }))
	resp := call(t, transport, people)
	require.Zero(t, original.reads.Load())

	// The caller stops at the end of the JSON, as decoders do, and closes.
	_, err := io.ReadFull(resp.Body, make([]byte, len(batchBody)))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, resp.Body.Close())
	require.Len(t, closed(t, transport, &r), 1)
}

func TestABatchThatTheCallerDoesNotReadSaysNothing(t *testing.T) {
	original := &body{Reader: strings.NewReader(batchBody)}
	var r reports
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) { return answer(req, 200, original), nil }))
	require.NoError(t, call(t, transport, people).Body.Close())
	require.Zero(t, original.reads.Load())
	require.Empty(t, closed(t, transport, &r))
}

func TestALongBatchIsReportedByItsBeginning(t *testing.T) {
	var r reports
	transport := r.transport(answers(200, batchBody[:len(batchBody)-2]+`,`+strings.Repeat(`{"code":200},`, batchLimit/10)))
	resp := call(t, transport, people)
	_, err := io.ReadFull(resp.Body, make([]byte, batchLimit))
	require.NoError(t, err)
	require.Len(t, closed(t, transport, &r), 1, "reported before the caller is done")
	require.NoError(t, resp.Body.Close())
}

func TestACallerThatLooksOnlyAtTheStatusIsEnough(t *testing.T) {
	var r reports
	transport := r.transport(answers(401, staleBody))
	require.NoError(t, call(t, transport, company).Body.Close())
	require.Len(t, closed(t, transport, &r), 1)
}

func TestReadingAfterCloseFails(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(401)
		fmt.Fprint(w, staleBody)
	}))
	defer server.Close()
	var r reports
	resp := call(t, r.transport(nil), server.URL)
	_, err := resp.Body.Read(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	_, err = resp.Body.Read(make([]byte, 10))
	require.ErrorContains(t, err, "closed")
}

// TestAStreamIsHandedOnAsItComes has a server that goes on only when the caller
// has read what it wrote before: whoever reads ahead and waits would hang.
func TestAStreamIsHandedOnAsItComes(t *testing.T) {
	for _, test := range []struct {
		path   string
		status int
		body   string
	}{{"/employer/company", 401, staleBody}, {"/employer/individual", 200, batchBody}} {
		goOn := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			for i := range len(test.body) / 10 {
				_ = http.NewResponseController(w).Flush()
				<-goOn
				fmt.Fprint(w, test.body[10*i:10*i+10])
			}
			fmt.Fprint(w, test.body[len(test.body)/10*10:])
		}))
		var r reports
		transport := r.transport(server.Client().Transport)
		resp := call(t, transport, server.URL+test.path)
		var got strings.Builder
		for range len(test.body) / 10 {
			goOn <- struct{}{}
			_, err := io.CopyN(&got, resp.Body, 10)
			require.NoError(t, err)
		}
		_, err := io.Copy(&got, resp.Body)
		require.NoError(t, err)
		require.Equal(t, test.body, got.String())
		require.NoError(t, resp.Body.Close())
		require.Len(t, closed(t, transport, &r), 1)
		server.Close()
	}
}

func TestAnAnswerThatStallsCanBeClosed(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(401)
		_ = http.NewResponseController(w).Flush()
		<-release
	}))
	defer server.Close()
	defer close(release)
	var r reports
	transport := r.transport(server.Client().Transport)
	resp := call(t, transport, server.URL)
	reading := make(chan error)
	go func() { _, err := resp.Body.Read(make([]byte, 1)); reading <- err }()
	require.NoError(t, resp.Body.Close())
	require.Error(t, <-reading)
	_, err := resp.Body.Read(make([]byte, 1))
	require.Error(t, err)
	require.Empty(t, closed(t, transport, &r))
}

func TestCompressedAnswers(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.Bytes()
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body := 401, staleBody
		if r.URL.Path == "/employer/individual" {
			status, body = 200, batchBody
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		_, _ = w.Write(zip(body))
	}))
	defer server.Close()
	for path, plain := range map[string]string{"/employer/company": staleBody, "/employer/individual": batchBody} {
		var r reports
		transport := r.transport(server.Client().Transport)
		resp := call(t, transport, server.URL+path)
		require.True(t, resp.Uncompressed, "the standard transport decompressed it")
		require.Equal(t, plain, read(t, resp))
		require.Len(t, closed(t, transport, &r), 1, path)

		// A caller that asks for compression itself gets it compressed.
		r = reports{}
		transport = r.transport(server.Client().Transport)
		resp = call(t, transport, server.URL+path, func(req *http.Request) { req.Header.Set("Accept-Encoding", "gzip") })
		require.Equal(t, string(zip(plain)), read(t, resp))
		require.Len(t, closed(t, transport, &r), 1, path)
	}
}

func TestWhatIsNotGzipIsLeftAlone(t *testing.T) {
	for _, text := range []string{staleBody, "", string([]byte{0x1f, 0x8b, 0, 1})} {
		var r reports
		transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, 401, io.NopCloser(strings.NewReader(text)))
			resp.Header.Set("Content-Encoding", "gzip")
			return resp, nil
		}))
		require.Equal(t, text, read(t, call(t, transport, company)))
		require.Empty(t, closed(t, transport, &r))
	}
}

func TestTheAnswerAndTheRequestAreLeftAsTheyAre(t *testing.T) {
	broken := errors.New("no route to host")
	var r reports
	transport := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path == "/broken" {
			return nil, broken
		}
		resp := answer(req, 401, io.NopCloser(strings.NewReader(staleBody)))
		resp.ContentLength = int64(len(staleBody))
		resp.Header.Set("Finch-Request-Id", "r-1")
		return resp, nil
	}))
	req, err := http.NewRequestWithContext(starter.WithConnection(t.Context(), "con-1"), http.MethodGet, "https://api.tryfinch.com/broken", nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.Nil(t, resp)
	require.Same(t, broken, err)

	before := req.Clone(req.Context())
	req.URL.Path, before.URL.Path = "/employer/company", "/employer/company"
	resp, err = transport.RoundTrip(req)
	require.NoError(t, err)
	require.EqualValues(t, len(staleBody), resp.ContentLength)
	require.Equal(t, http.Header{"Finch-Request-Id": {"r-1"}}, resp.Header)
	require.Equal(t, before.Header, req.Header)
	require.Equal(t, before.URL, req.URL)
	read(t, resp)

	noBody := r.transport(roundTripper(func(req *http.Request) (*http.Response, error) { return answer(req, 401, http.NoBody), nil }))
	require.True(t, call(t, noBody, company).Body == http.NoBody)
}

// TestAThousandCallersMakeOneReport goes over a real server, with the calls of
// three connections mixed.
func TestAThousandCallersMakeOneReport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(401)
		fmt.Fprint(w, staleBody)
	}))
	defer server.Close()
	var r reports
	transport := r.transport(server.Client().Transport)
	begin := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 1000 {
		callers.Go(func() {
			<-begin
			ctx := starter.WithConnection(context.Background(), fmt.Sprintf("con-%d", i%3))
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
			if !assert.NoError(t, err) {
				return
			}
			resp, err := transport.RoundTrip(req)
			if !assert.NoError(t, err) {
				return
			}
			got, err := io.ReadAll(resp.Body)
			assert.NoError(t, err)
			assert.Equal(t, staleBody, string(got))
			assert.NoError(t, resp.Body.Close())
		})
	}
	close(begin)
	callers.Wait()
	seen := make(map[string]int)
	for _, in := range closed(t, transport, &r) {
		seen[in.ConnectionID]++
	}
	require.Equal(t, map[string]int{"con-0": 1, "con-1": 1, "con-2": 1}, seen)
}

func TestAConnectionIsReportedAgainAfterTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r reports
		transport := r.transport(answers(401, staleBody))
		transport.Interval = time.Hour
		fail := func() {
			read(t, call(t, transport, company))
			synctest.Wait()
		}
		fail()
		fail()
		time.Sleep(time.Hour - time.Nanosecond)
		fail()
		require.Len(t, r.all(), 1)
		time.Sleep(time.Nanosecond)
		fail()
		fail()
		require.Len(t, r.all(), 2)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestAReportThatHangsKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int32
		transport := starter.NewTransport(answers(401, staleBody), func(ctx context.Context, _ reauth.Input) error {
			attempts.Add(1)
			<-ctx.Done() // only its timeout ends it
			return ctx.Err()
		})
		began := time.Now()
		for i := range 100 {
			require.Equal(t, staleBody, read(t, call(t, transport, company, func(r *http.Request) {
				*r = *r.WithContext(starter.WithConnection(r.Context(), fmt.Sprint("con-", i)))
			})))
		}
		require.Equal(t, began, time.Now(), "no caller waited")
		synctest.Wait()
		require.EqualValues(t, 4, attempts.Load(), "no more reports at once than there are workers")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 8, attempts.Load(), "a report that hangs is given up for others")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, transport.Close(ctx), context.Canceled)
	})
}

func TestAReportThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reports{fail: func(attempt int) error {
			if attempt < 5 {
				return errors.New("connection refused")
			}
			return nil
		}}
		transport := r.transport(answers(401, staleBody))
		transport.RetryMax = 3 * time.Second
		transport.Interval = time.Minute
		fail := func(token string) {
			read(t, call(t, transport, company, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }))
			synctest.Wait()
		}
		fail("token-1")
		for i, pause := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			require.Len(t, r.all(), i+1)
			fail("token-2") // is known, and changes only what is reported
			require.Len(t, r.all(), i+1)
			time.Sleep(pause)
			synctest.Wait()
		}
		got := r.all()
		require.Len(t, got, 5)
		require.Equal(t, reauth.Fingerprint("token-1"), got[0].TokenFingerprint)
		require.Equal(t, reauth.Fingerprint("token-2"), got[4].TokenFingerprint, "the newest evidence counts")
		require.Equal(t, []string{"con-1: connection refused", "con-1: connection refused", "con-1: connection refused", "con-1: connection refused"}, r.errors())

		// From its success on, it is known for an interval.
		time.Sleep(time.Minute - time.Second)
		fail("token-3")
		require.Len(t, r.all(), 5)
		time.Sleep(time.Second)
		fail("token-3")
		require.Len(t, r.all(), 6)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestAReportSurvivesAnOutageLongerThanTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		r := reports{fail: func(int) error {
			if up.Load() {
				return nil
			}
			return errors.New("connection refused")
		}}
		transport := r.transport(answers(401, staleBody))
		read(t, call(t, transport, company))
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		tried := len(r.all())
		require.Greater(t, tried, 100)
		read(t, call(t, transport, company))
		synctest.Wait()
		require.Len(t, r.all(), tried, "it is under way, however long")
		up.Store(true)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Len(t, r.all(), tried+1)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, r.all(), tried+1)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestAUselessReportIsNotTriedAgainWithinTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reports{fail: func(int) error { return fmt.Errorf("%w: not registered", starter.ErrRefused) }}
		transport := r.transport(answers(401, staleBody))
		transport.Interval = time.Hour
		fail := func() {
			read(t, call(t, transport, company))
			synctest.Wait()
		}
		fail()
		time.Sleep(time.Hour - time.Second)
		fail()
		require.Len(t, r.all(), 1)
		require.Equal(t, []string{"con-1: refused: not registered"}, r.errors())
		time.Sleep(time.Second)
		fail()
		require.Len(t, r.all(), 2)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestAReportThatPanicsEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reports{fail: func(attempt int) error {
			if attempt == 1 {
				panic("token-SENTINEL")
			}
			return nil
		}}
		transport := r.transport(answers(401, staleBody))
		read(t, call(t, transport, company))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, r.all(), 2)
		require.Equal(t, []string{"con-1: the report panicked"}, r.errors())
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		r := reports{fail: func(int) error {
			if up.Load() {
				return nil
			}
			return errors.New("connection refused")
		}}
		transport := r.transport(answers(401, staleBody))
		transport.Queue = 2
		transport.Interval = 24 * time.Hour
		fail := func(connectionID string) {
			read(t, call(t, transport, company, func(r *http.Request) {
				*r = *r.WithContext(starter.WithConnection(r.Context(), connectionID))
			}))
			synctest.Wait()
		}
		for _, id := range []string{"con-1", "con-2", "con-3"} {
			fail(id)
		}
		require.Len(t, r.all(), 2)
		require.Contains(t, r.errors(), "con-3: "+starter.ErrQueueFull.Error())

		up.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, r.all(), 4)
		fail("con-3") // was not reported, so it is not known
		require.Equal(t, "con-3", r.all()[4].ConnectionID)
		require.NoError(t, transport.Close(t.Context()))
	})
}

func TestCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reports{fail: func(attempt int) error {
			if attempt == 1 {
				return errors.New("connection refused")
			}
			return nil
		}}
		transport := r.transport(answers(401, staleBody))
		transport.RetryMin = time.Hour
		read(t, call(t, transport, company))
		synctest.Wait()
		require.Len(t, r.all(), 1)

		began := time.Now()
		require.NoError(t, transport.Close(t.Context()))
		require.Equal(t, began, time.Now(), "what waits is tried at once")
		require.Len(t, r.all(), 2)

		// Calls go on, reports do not.
		require.Equal(t, staleBody, read(t, call(t, transport, company, func(r *http.Request) {
			*r = *r.WithContext(starter.WithConnection(r.Context(), "con-2"))
		})))
		synctest.Wait()
		require.Len(t, r.all(), 2)
		require.Contains(t, r.errors(), "con-2: "+starter.ErrClosed.Error())
		require.NoError(t, transport.Close(t.Context()), "once more is no harm")
	})
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		transport := starter.NewTransport(answers(401, staleBody), func(ctx context.Context, _ reauth.Input) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		})
		transport.Timeout = time.Hour
		read(t, call(t, transport, company))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, transport.Close(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, <-ended, context.Canceled, "the attempt under way is ended")
	})
}

func TestCloseTriesOnceMoreAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reports{fail: func(int) error { return errors.New("connection refused") }}
		transport := r.transport(answers(401, staleBody))
		read(t, call(t, transport, company))
		synctest.Wait()
		require.NoError(t, transport.Close(t.Context()))
		require.Len(t, r.all(), 2)
		require.Len(t, r.errors(), 2)
	})
}

func TestATransportThatSawNothingCanBeClosed(t *testing.T) {
	require.NoError(t, new(starter.Transport).Close(t.Context()))
}

type idle struct {
	http.RoundTripper
	closed int
}

func (i *idle) CloseIdleConnections() { i.closed++ }

func TestIdleConnectionsOfTheBaseAreClosed(t *testing.T) {
	base := &idle{}
	(&http.Client{Transport: starter.NewTransport(base, nil)}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	starter.NewTransport(answers(200, ""), nil).CloseIdleConnections()
}
