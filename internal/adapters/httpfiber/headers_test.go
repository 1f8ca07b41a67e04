package httpfiber_test

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// field parses a structured field whose items are all strings, as RFC 9651 has it.
func field(t testing.TB, h http.Header, name string) map[string]map[string]int64 {
	t.Helper()
	require.Len(t, h.Values(name), 1, name)
	list, err := httpsfv.UnmarshalList(h.Values(name))
	require.NoError(t, err, h.Get(name))
	items := make(map[string]map[string]int64, len(list))
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		require.True(t, ok, "%s holds an inner list", name)
		params := make(map[string]int64)
		for _, key := range item.Params.Names() {
			value, _ := item.Params.Get(key)
			params[key], ok = value.(int64)
			require.True(t, ok, "%s;%s is not an integer", name, key)
		}
		label, ok := item.Value.(string)
		require.True(t, ok, "%s is not named by a string", name)
		items[label] = params
	}
	return items
}

func TestHeaders_exactly(t *testing.T) {
	twoLimits := decided(t, 3, 1, true)
	daily, err := domain.NewBucket("daily", 10_000, 10_000, 24*time.Hour)
	require.NoError(t, err)
	twoLimits.Limits = append(twoLimits.Limits, daily.Status(daily.Full(0), 0, 1, 0, true))
	late := decided(t, 0, 1, false)
	late.Limits[0].RetryAfter = time.Second + time.Microsecond

	for name, c := range map[string]struct {
		decision decision.Decision
		status   int
		want     map[string]string // "" must not be there
	}{
		"allowed": {decided(t, 9, 1, true), 200, map[string]string{
			"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "9", "X-RateLimit-Retry-After": "", "Retry-After": "",
			"RateLimit-Policy": `"burst";q=10;w=2`, "RateLimit": `"burst";r=9;t=1`, "X-RateLimit-Store": "",
		}},
		"full": {decided(t, 10, 0, true), 200, map[string]string{
			"X-RateLimit-Remaining": "10", "RateLimit": `"burst";r=10`,
		}},
		"in debt": {decided(t, -7, 0, true), 200, map[string]string{
			"X-RateLimit-Remaining": "0", "RateLimit": `"burst";r=0;t=2`,
		}},
		"denied": {decided(t, 0, 1, false), 429, map[string]string{
			"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Retry-After": "1", "Retry-After": "1",
			"RateLimit-Policy": `"burst";q=10;w=2`, "RateLimit": `"burst";r=0;t=1`, "X-RateLimit-Store": "",
		}},
		"denied for a little over a second": {late, 429, map[string]string{
			"X-RateLimit-Retry-After": "2", "Retry-After": "2",
		}},
		"cost above capacity": {decided(t, 10, 11, false), 429, map[string]string{
			"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "10", "X-RateLimit-Retry-After": "", "Retry-After": "",
		}},
		"two limits": {twoLimits, 200, map[string]string{
			"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "3",
			"RateLimit-Policy": `"burst";q=10;w=2, "daily";q=10000;w=86400`,
			"RateLimit":        `"burst";r=3;t=1, "daily";r=10000`,
		}},
		"fell back open": {fellBack(t, decision.OutcomeAllowed), 200, map[string]string{
			"X-RateLimit-Limit": "10", "RateLimit-Policy": `"burst";q=10;w=2`, "X-RateLimit-Store": "fallback",
			"X-RateLimit-Remaining": "", "RateLimit": "", "X-RateLimit-Retry-After": "", "Retry-After": "",
		}},
		"fell back closed": {fellBack(t, decision.OutcomeUnavailable), 503, map[string]string{
			"X-RateLimit-Limit": "10", "RateLimit-Policy": `"burst";q=10;w=2`, "X-RateLimit-Store": "fallback",
			"X-RateLimit-Remaining": "", "RateLimit": "", "X-RateLimit-Retry-After": "", "Retry-After": "1",
		}},
		"no policy": {decision.Decision{Outcome: decision.OutcomeAllowed}, 200, map[string]string{
			"X-RateLimit-Limit": "", "X-RateLimit-Remaining": "", "RateLimit-Policy": "", "RateLimit": "",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, testConfig(), always(c.decision))
			got := call(t, "GET", "http://"+addr+"/api/resource", "")
			assert.Equal(t, c.status, got.status)
			for header, want := range c.want {
				assert.Equal(t, want, got.header.Get(header), header)
			}
		})
	}
}

// TestHeaders_namesAreSpelledAsDocumented reads raw bytes, because Go's client changes the case of names.
func TestHeaders_namesAreSpelledAsDocumented(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 0, 1, false)))
	conn := dial(t, addr)
	_, err := conn.Write([]byte("GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	raw := make([]byte, 4096)
	n, err := conn.Read(raw)
	require.NoError(t, err)
	for _, line := range []string{
		"\r\nX-RateLimit-Limit: 10\r\n", "\r\nX-RateLimit-Remaining: 0\r\n", "\r\nX-RateLimit-Retry-After: 1\r\n",
		"\r\nRetry-After: 1\r\n", "\r\nRateLimit: \"burst\";r=0;t=1\r\n",
		"\r\nRateLimit-Policy: \"burst\";q=10;w=2\r\n", "\r\nX-Request-Id: ",
	} {
		assert.Contains(t, string(raw[:n]), line)
	}
	assert.NotContains(t, string(raw[:n]), "\r\nServer:")
}

// TestHeaders_parseAndRoundAgainstTheClient emits random decisions of random policies and reads them back.
func TestHeaders_parseAndRoundAgainstTheClient(t *testing.T) {
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	var d decision.Decision
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) { return d, nil }))
	for range 300 {
		d = randomDecision(random)
		got := call(t, "GET", "http://"+addr+"/api/resource", "")
		policies, levels := field(t, got.header, "RateLimit-Policy"), field(t, got.header, "RateLimit")
		require.Len(t, policies, len(d.Limits))
		require.Len(t, levels, len(d.Limits))
		for _, s := range d.Limits {
			assert.Equal(t, int64(s.Capacity), policies[s.Name]["q"])
			assertRoundsUp(t, s.Window, policies[s.Name]["w"])
			assert.Equal(t, int64(max(s.Remaining, 0)), levels[s.Name]["r"])
			assertRoundsUp(t, s.NextToken, levels[s.Name]["t"])
		}
		if retry := got.header.Get("Retry-After"); retry != "" {
			seconds, err := strconv.ParseInt(retry, 10, 64)
			require.NoError(t, err)
			for _, s := range d.Limits {
				assert.True(t, s.Allowed || seconds >= levels[s.Name]["t"], "earlier than the t of a limit that denied")
				assert.GreaterOrEqual(t, time.Duration(seconds)*time.Second, s.RetryAfter)
			}
		}
	}
}

func assertRoundsUp(t *testing.T, exact time.Duration, seconds int64) {
	t.Helper()
	assert.GreaterOrEqual(t, time.Duration(seconds)*time.Second, exact)
	assert.Less(t, time.Duration(seconds-1)*time.Second, max(exact, 1))
}

func randomDecision(random *rand.Rand) decision.Decision {
	d := decision.Decision{Policy: "default", LevelKnown: true, Outcome: decision.OutcomeAllowed}
	cost := domain.Tokens(1 + random.Int64N(20))
	for i := range 1 + random.IntN(5) {
		per := time.Duration(1+random.Int64N(1e6)) * time.Millisecond
		l, err := domain.NewBucket("limit-"+strconv.Itoa(i), domain.Tokens(1+random.Int64N(1000)),
			domain.Tokens(1+random.Int64N(1000)), per)
		if err != nil {
			continue
		}
		full := int64(l.Full(0).Amount)
		level := domain.Credits(random.Int64N(full+full/4+1) - full/4)
		b := domain.State{Amount: min(level, l.Full(0).Amount), TokenCredits: l.TokenBucket().TokenCredits()}
		s := l.Status(b, 0, cost, 0, false)
		if !s.Allowed {
			d.Outcome = decision.OutcomeDenied
		}
		d.Limits = append(d.Limits, s)
	}
	if len(d.Limits) == 0 {
		return randomDecision(random)
	}
	return d
}

// TestHeaders_ofQuotas: the resource, forward-auth and the decision API tell of a quota what they tell of a bucket.
func TestHeaders_ofQuotas(t *testing.T) {
	for name, c := range webtest.Quotas(t) {
		t.Run(name, func(t *testing.T) {
			addr := start(t, testConfig(), always(c.Decision))
			for _, path := range []string{"/api/resource", "/v1/forward-auth"} {
				got := call(t, "GET", "http://"+addr+path, "")
				assert.Equal(t, c.Status, got.status)
				for header, want := range c.Header {
					assert.Equal(t, want, got.header.Get(header), header)
				}
				for member, want := range c.Problem {
					assert.Equal(t, want, got.problem(t)[member], member)
				}
			}
		})
	}
}
