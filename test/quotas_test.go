package test

import (
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// quotaPolicies have periods of a year, so that none ends during a test.
const quotaPolicies = `
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: burst, rate: 1000/s, capacity: 100 }
      - { name: plan, quota: 10/year, zone: Europe/Berlin }
      - { name: requests, quota: 4/year, anchor: 2026-02-01, cost: 1 }
`

// overStores runs a test with each store.
func overStores(t *testing.T, policies string, test func(*testing.T, *harness.Process)) {
	for name, addr := range map[string]string{"memory": "", "redis": redistest.Start(t).Addr} {
		t.Run(name, func(t *testing.T) {
			p := harness.Start(t, harness.Settings{
				"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", policies), "REDIS_ADDR": addr, "VELOCITY_TAKE_TIMEOUT": "20s",
			})
			test(t, p)
			p.Stop()
		})
	}
}

func TestQuotas_overHTTP(t *testing.T) { overStores(t, quotaPolicies, quotasOverHTTP) }

func quotasOverHTTP(t *testing.T, p *harness.Process) {
	before := time.Now().Truncate(time.Microsecond)
	for left := 3; left >= 0; left-- {
		a := p.Resource("X-Client-ID: alice")
		require.Equal(t, http.StatusOK, a.Status, a.Body)
		assert.Equal(t, "4", a.Header.Get("X-RateLimit-Limit"))
		assert.Equal(t, strconv.Itoa(left), a.Header.Get("X-RateLimit-Remaining"))
		assert.Regexp(t, `^"burst";q=100;w=1, "plan";q=10;w=31(536|622)[04]00, "requests";q=4;w=31(536|622)[04]00$`, a.Header.Get("RateLimit-Policy"))
	}
	a := p.Resource("X-Client-ID: alice")
	require.Equal(t, http.StatusTooManyRequests, a.Status)
	assert.Equal(t, []any{"requests"}, a.JSON(t)["violated-policies"])
	wait, err := strconv.ParseInt(a.Header.Get("Retry-After"), 10, 64)
	require.NoError(t, err)
	end := time.Date(before.Year(), 2, 1, 0, 0, 0, 0, time.UTC)
	if !end.After(before) {
		end = end.AddDate(1, 0, 0)
	}
	assert.InDelta(t, time.Until(end).Seconds(), wait, 60)
	level := regexp.MustCompile(`"plan";r=6;t=\d+, "requests";r=0;t=(\d+)$`).FindStringSubmatch(a.Header.Get("RateLimit"))
	require.NotNil(t, level, a.Header.Get("RateLimit"))
	assert.Equal(t, a.Header.Get("Retry-After"), level[1])

	inspected := p.MustDo(http.MethodGet, p.Admin+"/v1/buckets/default/alice", "").JSON(t)
	limits := inspected["limits"].([]any)
	require.Len(t, limits, 3)
	assert.Equal(t, "bucket", limits[0].(map[string]any)["kind"])
	requests := limits[2].(map[string]any)
	assert.Equal(t, "quota", requests["kind"])
	assert.InDelta(t, 4, requests["used"], 0)
	assert.Equal(t, end.Format(time.RFC3339), requests["period_end"])
	assert.Equal(t, end.AddDate(-1, 0, 0).Format(time.RFC3339), requests["period_start"])
	updated, err := time.Parse(time.RFC3339Nano, requests["updated_at"].(string))
	require.NoError(t, err)
	assert.WithinRange(t, updated, before, time.Now())
}

func TestQuotas_refundAndChargeOfATake(t *testing.T) {
	overStores(t, quotaPolicies, refundAndChargeOfATake)
}

func refundAndChargeOfATake(t *testing.T, p *harness.Process) {
	ask := func(path, body string) map[string]any {
		a := p.MustDo(http.MethodPost, p.URL+path, body)
		require.Equal(t, http.StatusOK, a.Status, a.Body)
		return a.JSON(t)
	}
	left := func(answer map[string]any) (plan, requests float64) {
		limits := answer["limits"].([]any)
		return limits[1].(map[string]any)["remaining"].(float64), limits[2].(map[string]any)["remaining"].(float64)
	}
	took := ask("/v1/check", `{"key":"alice","cost":6}`)
	takenAt := time.UnixMicro(int64(took["taken_at_us"].(float64)))
	assert.WithinDuration(t, time.Now(), takenAt, time.Minute)
	of := func(cost int, at time.Time) string {
		return `{"key":"alice","cost":` + strconv.Itoa(cost) + `,"taken_at_us":` + strconv.FormatInt(at.UnixMicro(), 10) + `}`
	}
	for _, c := range []struct {
		path, body     string
		plan, requests float64
	}{
		{"/v1/check", `{"key":"alice","cost":0}`, 4, 3},
		{"/v1/refund", of(2, takenAt), 6, 3},
		{"/v1/refund", of(2, takenAt.AddDate(-1, 0, 0)), 6, 3},
		{"/v1/charge", of(2, takenAt.AddDate(-1, 0, 0)), 6, 3},
		{"/v1/charge", of(9, takenAt), -3, 3},
		{"/v1/refund", `{"key":"alice","cost":3}`, 0, 3},
	} {
		plan, requests := left(ask(c.path, c.body))
		assert.InDelta(t, c.plan, plan, 0, "%s %s", c.path, c.body)
		assert.InDelta(t, c.requests, requests, 0, "%s %s", c.path, c.body)
	}
	denied := ask("/v1/check", `{"key":"alice"}`)
	assert.Equal(t, false, denied["allowed"])
	assert.Contains(t, denied, "taken_at_us")
}
