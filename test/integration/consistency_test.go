package integration

import (
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

var consistencyRequests = flag.Int("consistency.requests", 6000, "decisions of the test that compares what everybody counts")

// tally counts decisions by outcome.
type tally struct {
	Allowed, Denied, Unavailable int
	// Fallback is how many of them the failure policy decided.
	Fallback int
}

func (c tally) total() int { return c.Allowed + c.Denied + c.Unavailable }

// recorder counts what the client received.
type recorder struct {
	mu   sync.Mutex
	seen tally
	errs []error
}

func (r *recorder) record(a harness.Response, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	if a.Header.Get("X-RateLimit-Store") == "fallback" {
		r.seen.Fallback++
	}
	switch a.Status {
	case http.StatusOK:
		r.seen.Allowed++
	case http.StatusTooManyRequests:
		r.seen.Denied++
	case http.StatusServiceUnavailable:
		r.seen.Unavailable++
	default:
		r.errs = append(r.errs, fmt.Errorf("status %d: %s", a.Status, a.Body))
	}
}

// recordChecks counts the results in a response of the decision API.
func (r *recorder) recordChecks(a harness.Response, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable {
		r.errs = append(r.errs, fmt.Errorf("%w: status %d: %s", err, a.Status, a.Body))
		return
	}
	r.seen.Allowed += strings.Count(a.Body, `{"allowed":true,"policy"`)
	r.seen.Denied += strings.Count(a.Body, `{"allowed":false,"policy"`)
	unavailable := strings.Count(a.Body, `"status":503`)
	r.seen.Unavailable += unavailable
	r.seen.Fallback += strings.Count(a.Body, `"store":"fallback"`) + unavailable
}

// mixedRun requests n decisions in every way, for clients of which some are over their limit, while the two shards die,
// restart, freeze and continue. It also sends requests without a decision: with cost 0, and malformed.
func mixedRun(t *testing.T, mode string, n int) (*harness.Process, tally) {
	t.Helper()
	servers, addrs := redistest.StartN(t, 2)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_REDIS_ADDRS": "a=" + addrs[0] + ",b=" + addrs[1], "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "8",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_ON_STORE_FAILURE": mode,
		"VELOCITY_MEMORY_MAX_BUCKETS": "100000",
	})
	faults := []func(){
		servers[1].Kill, servers[1].Restart, servers[0].Pause, servers[0].Resume, servers[1].Kill, servers[1].Restart,
	}
	r := &recorder{}
	const perRound, workers = 14, 8
	rounds := make(chan int)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := range rounds {
				sendRound(p, r, i)
			}
		})
	}
	for i := range n / perRound {
		if every := n/perRound/(len(faults)+1) + 1; i%every == every-1 {
			faults[i/every]()
		}
		rounds <- i
	}
	close(rounds)
	running.Wait()
	require.Empty(t, r.errs)
	require.Equal(t, n/perRound*perRound, r.seen.total())
	return p, r.seen
}

// sendRound requests 14 decisions.
func sendRound(p *harness.Process, r *recorder, i int) {
	client := func(j int) string { return fmt.Sprint("client-", (i*7+j*j)%97) }
	for j := range 3 {
		r.record(p.Do(http.MethodGet, p.URL+"/api/resource", "", "X-Client-ID: "+client(j)))
	}
	r.recordChecks(p.Do(http.MethodPost, p.URL+"/v1/check", fmt.Sprintf(`{"key":%q}`, client(4))))
	var checks []string
	for j := range 10 {
		checks = append(checks, fmt.Sprintf(`{"key":%q,"cost":%d}`, client(5+j), 1+j%2))
	}
	checks = append(checks, fmt.Sprintf(`{"key":%q,"cost":-1}`, client(5))) // a problem in the list of results
	r.recordChecks(p.Do(http.MethodPost, p.URL+"/v1/checks", `{"checks":[`+strings.Join(checks, ",")+`]}`))

	_, _ = p.Do(http.MethodPost, p.URL+"/v1/check", `{"key":"peeks","cost":0}`)
	_, _ = p.Do(http.MethodPost, p.URL+"/v1/check", `{"policy":"other","key":"a"}`)
	_, _ = p.Do(http.MethodGet, p.URL+"/api/%2fresource", "")
}

// statusCounts returns what the live page shows.
func statusCounts(p *harness.Process) tally {
	p.T.Helper()
	var c tally
	for _, d := range p.MustDo(http.MethodGet, p.Admin+"/v1/status", "").JSON(p.T)["decisions"].([]any) {
		d := d.(map[string]any)
		n := int(d["count"].(float64))
		switch d["outcome"] {
		case "allowed":
			c.Allowed += n
		case "denied":
			c.Denied += n
		case "unavailable":
			c.Unavailable += n
		}
		if d["store"] == "fallback" {
			c.Fallback += n
		}
	}
	return c
}

func metricCounts(p *harness.Process) tally {
	p.T.Helper()
	count := func(label string) int { return int(p.Metric("velocity_decisions_total", label)) }
	return tally{
		count(`outcome="allowed"`), count(`outcome="denied"`), count(`outcome="unavailable"`), count(`store="fallback"`),
	}
}

// logCounts returns what the log holds. The process must have ended.
func logCounts(p *harness.Process) tally {
	p.T.Helper()
	var c tally
	for msg, n := range map[string]*int{
		"Decision: ALLOWED": &c.Allowed, "Decision: BLOCKED (429)": &c.Denied, "Decision: BLOCKED (503)": &c.Unavailable,
	} {
		for _, line := range p.LogLines(msg) {
			*n++
			if line["store"] == "fallback" {
				c.Fallback++
			}
		}
	}
	return c
}

// The client, the metrics, the live page and the log count the same decisions, whatever fails.
func TestConsistency_clientMetricsStatusAndLogAgree(t *testing.T) {
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			began := time.Now()
			p, seen := mixedRun(t, mode, *consistencyRequests/3)
			t.Logf("%+v in %v", seen, time.Since(began))
			assert.Positive(t, seen.Denied)
			assert.Positive(t, seen.Fallback, "no shard failed")
			assert.Equal(t, seen, metricCounts(p), "metrics")
			assert.Equal(t, seen, statusCounts(p), "live page")
			assert.InDelta(t, seen.total(), p.Metric("velocity_decision_duration_seconds_count"), 0, "times")
			assert.Zero(t, p.Metric("velocity_log_lines_dropped_total"))
			p.Stop()
			assert.Equal(t, seen, logCounts(p), "log")
		})
	}
}
