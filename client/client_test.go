package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
)

const patience = 10 * time.Second

// service is a fake of the Velocity service. It records the checks and answers each as decide says.
type service struct {
	t      *testing.T
	url    string
	calls  atomic.Int64
	checks atomic.Int64
	hold   chan struct{} // if not nil, each call waits for a value
	refuse int           // if not 0, the status of each call of several checks
	decide func(check client.Check) (status int, body string)
}

const allowed = `{"allowed":true,"policy":"default","limit":10,"remaining":9,"retry_after_ms":0,"reset_after_ms":200,` +
	`"mode":"enforce","store":"redis","limits":[{"name":"burst","allowed":true,"limit":10,"remaining":9,` +
	`"retry_after_ms":0,"reset_after_ms":200}]}`

func startService(t *testing.T) *service {
	s := &service{t: t, decide: func(client.Check) (int, string) { return http.StatusOK, allowed }}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *service) client() *client.Client {
	c, err := client.New(client.Config{URL: s.url, Token: "token", Timeout: patience})
	require.NoError(s.t, err)
	s.t.Cleanup(c.Close)
	return c
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	assert.Equal(s.t, "application/json", r.Header.Get("Content-Type"))
	assert.Equal(s.t, "Bearer token", r.Header.Get("Authorization"))
	body, err := io.ReadAll(r.Body)
	assert.NoError(s.t, err)
	assert.LessOrEqual(s.t, len(body), 1<<20, "the service reads no more")
	if s.hold != nil {
		<-s.hold
	}
	if r.URL.Path != "/v1/checks" {
		var check client.Check
		assert.NoError(s.t, json.Unmarshal(body, &check))
		s.checks.Add(1)
		status, text := s.decide(check)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	}
	var list struct{ Checks []client.Check }
	assert.NoError(s.t, json.Unmarshal(body, &list))
	if s.refuse != 0 {
		w.WriteHeader(s.refuse)
		_, _ = io.WriteString(w, problem(s.refuse))
		return
	}
	out := `{"results":[`
	for i, check := range list.Checks {
		s.checks.Add(1)
		_, text := s.decide(check)
		if i > 0 {
			out += ","
		}
		out += text
	}
	_, _ = io.WriteString(w, out+"]}")
}

func problem(status int) string {
	return fmt.Sprintf(`{"type":"about:blank","title":"%s","status":%d,"detail":"why","instance":"/v1/check","request_id":"id"}`,
		http.StatusText(status), status)
}

func TestCheck_readsTheWholeDecision(t *testing.T) {
	s := startService(t)
	r, err := s.client().Check(t.Context(), client.Check{Key: "alice", Cost: client.Tokens(0)})
	require.NoError(t, err)
	assert.Equal(t, client.Result{
		Allowed: true, Policy: "default", Limit: 10, Remaining: 9, ResetAfter: 200 * time.Millisecond, LevelKnown: true,
		Mode: "enforce", Store: "redis",
		Limits: []client.Limit{{Name: "burst", Allowed: true, Limit: 10, Remaining: 9, ResetAfter: 200 * time.Millisecond}},
	}, r)
}

func TestCheck_batchesConcurrentChecks(t *testing.T) {
	const crowd = 500
	s := startService(t)
	s.hold = make(chan struct{})
	c := s.client()
	var wg sync.WaitGroup
	ask := func(key string) {
		wg.Go(func() {
			ok, err := c.Allow(t.Context(), key)
			assert.NoError(t, err)
			assert.True(t, ok)
		})
	}
	ask("first")
	require.Eventually(t, func() bool { return s.calls.Load() == 1 }, patience, time.Millisecond)
	for i := range crowd {
		ask(fmt.Sprint(i))
	}
	require.Eventually(t, func() bool { return client.Waiting(c) == crowd }, patience, time.Millisecond)
	close(s.hold)
	wg.Wait()
	assert.EqualValues(t, 2, s.calls.Load(), "the first check, and a batch of all that came while it was in flight")
	assert.EqualValues(t, crowd+1, s.checks.Load())
}

func TestCheck_cancelledBeforeTheCallIsNotSent(t *testing.T) {
	s := startService(t)
	s.hold = make(chan struct{})
	c := s.client()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Allow(t.Context(), "first") })
	require.Eventually(t, func() bool { return s.calls.Load() == 1 }, patience, time.Millisecond)

	ctx, leave := context.WithCancel(t.Context())
	wg.Go(func() {
		_, err := c.Allow(ctx, "leaves")
		assert.ErrorIs(t, err, context.Canceled)
	})
	wg.Go(func() {
		ok, err := c.Allow(t.Context(), "stays")
		assert.NoError(t, err)
		assert.True(t, ok)
	})
	require.Eventually(t, func() bool { return client.Waiting(c) == 2 }, patience, time.Millisecond)
	leave()
	require.Eventually(t, func() bool { return client.Cancelled(c) == 1 }, patience, time.Millisecond)
	close(s.hold)
	wg.Wait()
	assert.EqualValues(t, 2, s.checks.Load())
}

// whileOneWaits has a crowd of checks wait while the first call is held, and then answers all. Each is asked on a goroutine.
func whileOneWaits(t *testing.T, s *service, c *client.Client, crowd int, ask func(i int)) {
	t.Helper()
	s.hold = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Allow(t.Context(), "first") })
	require.Eventually(t, func() bool { return s.calls.Load() == 1 }, patience, time.Millisecond)
	for i := range crowd {
		wg.Go(func() { ask(i) })
	}
	require.Eventually(t, func() bool { return client.Waiting(c) == crowd }, patience, time.Millisecond)
	close(s.hold)
	wg.Wait()
}

func TestCheck_anInvalidOneFailsAlone(t *testing.T) {
	s := startService(t)
	s.decide = func(check client.Check) (int, string) {
		if check.Attributes["tenant"] != "" {
			return http.StatusBadRequest, problem(http.StatusBadRequest)
		}
		return http.StatusOK, allowed
	}
	c := s.client()
	whileOneWaits(t, s, c, 300, func(i int) {
		if i == 150 {
			_, err := c.Check(t.Context(), client.Check{Key: "odd", Attributes: map[string]string{"tenant": "acme"}})
			assert.ErrorIs(t, err, client.ErrInvalid)
			return
		}
		ok, err := c.Allow(t.Context(), "plain")
		assert.NoError(t, err)
		assert.True(t, ok)
	})
	assert.EqualValues(t, 2, s.calls.Load(), "the others do not wait for it")
	assert.EqualValues(t, 301, s.checks.Load())
}

func TestCheck_aCallThatIsRefusedIsNotRepeated(t *testing.T) {
	s := startService(t)
	s.refuse = http.StatusRequestEntityTooLarge
	c := s.client()
	whileOneWaits(t, s, c, 30, func(int) {
		_, err := c.Allow(t.Context(), "plain")
		assert.ErrorIs(t, err, client.ErrInvalid)
	})
	assert.EqualValues(t, 2, s.calls.Load())
}

// JSON has no other text. Were it sent, all these keys would be one.
func TestCheck_textThatIsNotUTF8IsNotSent(t *testing.T) {
	s := startService(t)
	c := s.client()
	for field, check := range map[string]client.Check{
		"Key: ":                       {Key: "\xff"},
		"Policy: ":                    {Key: "a", Policy: "\xfe"},
		`Attributes["header:x"]: `:    {Key: "a", Attributes: map[string]string{"header:x": "\xff"}},
		`Attributes["header:\xff"]: `: {Key: "a", Attributes: map[string]string{"header:\xff": "x"}},
	} {
		_, err := c.Check(t.Context(), check)
		require.ErrorIs(t, err, client.ErrInvalid, field)
		require.ErrorContains(t, err, field+"must be UTF-8")
		_, err = c.Refund(t.Context(), check)
		require.ErrorIs(t, err, client.ErrInvalid, field)
		_, err = c.Charge(t.Context(), check)
		require.ErrorIs(t, err, client.ErrInvalid, field)
		answers, err := c.CheckMany(t.Context(), []client.Check{check})
		require.NoError(t, err)
		require.ErrorIs(t, answers[0].Err, client.ErrInvalid, field)
	}
	assert.Zero(t, s.calls.Load())
}

func TestCheck_aLongKeyIsRefusedAloneAndAmongOthers(t *testing.T) {
	s := startService(t)
	c := s.client()
	long := client.Check{Key: strings.Repeat("a", 100_000)}
	_, err := c.Check(t.Context(), long)
	require.ErrorIs(t, err, client.ErrInvalid)
	require.ErrorContains(t, err, "must be at most 65536")
	answers, err := c.CheckMany(t.Context(), []client.Check{{Key: "a"}, long, {Key: "\xff"}, {Key: strings.Repeat("a", 60_000)}})
	require.NoError(t, err)
	assert.True(t, answers[0].Result.Allowed)
	require.ErrorIs(t, answers[1].Err, client.ErrInvalid)
	require.ErrorIs(t, answers[2].Err, client.ErrInvalid)
	assert.True(t, answers[3].Result.Allowed)
	assert.EqualValues(t, 1, s.calls.Load())
}

// tracing is what libraries put in place of http.DefaultTransport.
type tracing struct {
	next  http.RoundTripper
	calls atomic.Int64
}

func (w *tracing) RoundTrip(r *http.Request) (*http.Response, error) {
	w.calls.Add(1)
	return w.next.RoundTrip(r)
}

func TestNew_defaultTransportMayBeAnotherType(t *testing.T) {
	wrapper := &tracing{next: http.DefaultTransport}
	http.DefaultTransport = wrapper
	t.Cleanup(func() { http.DefaultTransport = wrapper.next })
	s := startService(t)
	ok, err := s.client().Allow(t.Context(), "a")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.EqualValues(t, 1, wrapper.calls.Load(), "the program's transport sends the call")
}

func TestCheckMany_eachHasItsOwnAnswer(t *testing.T) {
	s := startService(t)
	s.decide = func(check client.Check) (int, string) {
		if check.Policy != "" {
			return http.StatusNotFound, problem(http.StatusNotFound)
		}
		return http.StatusOK, allowed
	}
	answers, err := s.client().CheckMany(t.Context(), []client.Check{{Key: "a"}, {Key: "b", Policy: "other"}, {Key: "c"}})
	require.NoError(t, err)
	require.Len(t, answers, 3)
	assert.True(t, answers[0].Result.Allowed)
	assert.ErrorIs(t, answers[1].Err, client.ErrUnknownPolicy)
	assert.True(t, answers[2].Result.Allowed)
}

func TestCheckMany_isSeveralCallsIfOneWouldBeTooLong(t *testing.T) {
	for _, c := range []struct {
		checks, keyLen int
		calls          int64
	}{{0, 0, 0}, {1000, 2000, 3}, {2001, 1, 3}, {16, 60_000, 2}} {
		s := startService(t)
		s.decide = func(check client.Check) (int, string) {
			return http.StatusOK, strings.Replace(allowed, `"remaining":9`, `"remaining":`+strings.TrimLeft(check.Key, "x"), 1)
		}
		checks := make([]client.Check, c.checks)
		for i := range checks {
			checks[i].Key = strings.Repeat("x", c.keyLen) + fmt.Sprint(i)
		}
		answers, err := s.client().CheckMany(t.Context(), checks)
		require.NoError(t, err)
		require.Len(t, answers, c.checks)
		for i, answer := range answers {
			require.NoError(t, answer.Err)
			require.EqualValues(t, i, answer.Result.Remaining, "in order")
		}
		assert.Equal(t, c.calls, s.calls.Load())
	}
}

func TestCheck_anotherProgramsAnswerIsAnError(t *testing.T) {
	for _, body := range []string{`{}`, `{"message":"hello"}`, `null`, `{"allowed":null}`} {
		s := startService(t)
		s.decide = func(client.Check) (int, string) { return http.StatusOK, body }
		_, err := s.client().Check(t.Context(), client.Check{Key: "a"})
		require.ErrorIs(t, err, client.ErrUnavailable, body)
		answers, err := s.client().CheckMany(t.Context(), []client.Check{{Key: "a"}})
		require.NoError(t, err, body)
		require.ErrorIs(t, answers[0].Err, client.ErrUnavailable, body)
	}
}

func TestProblem_wrapsWhatItsStatusMeans(t *testing.T) {
	for status, want := range map[int]error{
		http.StatusBadRequest: client.ErrInvalid, http.StatusUnprocessableEntity: client.ErrInvalid,
		http.StatusRequestEntityTooLarge: client.ErrInvalid, http.StatusUnauthorized: client.ErrForbidden,
		http.StatusForbidden: client.ErrForbidden, http.StatusNotFound: client.ErrUnknownPolicy,
		http.StatusServiceUnavailable: client.ErrUnavailable, http.StatusInternalServerError: client.ErrUnavailable,
	} {
		s := startService(t)
		s.decide = func(client.Check) (int, string) { return status, problem(status) }
		_, err := s.client().Refund(t.Context(), client.Check{Key: "a"})
		require.ErrorIs(t, err, want, status)
		var p *client.Error
		require.ErrorAs(t, err, &p)
		assert.Equal(t, status, p.Status)
		assert.Equal(t, "why", p.Detail)
		assert.Equal(t, "id", p.RequestID)
		assert.Equal(t, 7*time.Second, p.RetryAfter)
	}
}

func TestCheck_aLostAnswerIsNotRepeated(t *testing.T) {
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			_ = conn.Close()
		}
	}))
	defer server.Close()
	c, err := client.New(client.Config{URL: server.URL})
	require.NoError(t, err)
	defer c.Close()
	for n := range int64(3) {
		_, err = c.Check(t.Context(), client.Check{Key: "a"})
		require.ErrorIs(t, err, client.ErrUnavailable)
		_, err = c.Charge(t.Context(), client.Check{Key: "a"})
		require.ErrorIs(t, err, client.ErrUnavailable)
		assert.Equal(t, 2*(n+1), calls.Load())
	}
}

func TestCheck_aHangingServiceTimesOut(t *testing.T) {
	s := startService(t)
	s.hold = make(chan struct{})
	defer close(s.hold)
	c, err := client.New(client.Config{URL: s.url, Token: "token", Timeout: 50 * time.Millisecond})
	require.NoError(t, err)
	_, err = c.Check(t.Context(), client.Check{Key: "a"})
	require.ErrorIs(t, err, client.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestNew_reportsEveryViolation(t *testing.T) {
	_, err := client.New(client.Config{URL: "localhost:3000", Timeout: -1})
	require.ErrorContains(t, err, `URL: "localhost:3000"`)
	require.ErrorContains(t, err, "Timeout: -1ns")
}
