package test

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
)

var consistencyRequests = flag.Int("consistency.requests", 6000, "decisions of the test that compares what everybody counts")

// tally counts decisions by what they meant.
type tally struct {
	Allowed, Denied, Unavailable int
	// Fallback of them were decided by the failure policy.
	Fallback int
}

func (c tally) total() int { return c.Allowed + c.Denied + c.Unavailable }

// recorder is what the client saw.
type recorder struct {
	mu   sync.Mutex
	seen tally
	errs []error
}

func (r *recorder) note(a answer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	if a.header.Get("X-RateLimit-Store") == "fallback" {
		r.seen.Fallback++
	}
	switch a.status {
	case http.StatusOK:
		r.seen.Allowed++
	case http.StatusTooManyRequests:
		r.seen.Denied++
	case http.StatusServiceUnavailable:
		r.seen.Unavailable++
	default:
		r.errs = append(r.errs, fmt.Errorf("status %d: %s", a.status, a.body))
	}
}

// noteBody counts what the decision API answered.
func (r *recorder) noteBody(a answer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
		r.errs = append(r.errs, fmt.Errorf("%w: status %d: %s", err, a.status, a.body))
		return
	}
	r.seen.Allowed += strings.Count(a.body, `{"allowed":true,"policy"`)
	r.seen.Denied += strings.Count(a.body, `{"allowed":false,"policy"`)
	unavailable := strings.Count(a.body, `"status":503`)
	r.seen.Unavailable += unavailable
	r.seen.Fallback += strings.Count(a.body, `"store":"fallback"`) + unavailable
}

// mixedRun sends n decisions over every door, from clients of whom some are denied, while one of two shards dies, comes
// back, freezes and goes on. What is no decision is sent, too: peeks and requests that are refused.
func mixedRun(t *testing.T, mode string, n int) (*process, tally) {
	t.Helper()
	servers, addrs := redistest.StartN(t, 2)
	p := start(t, settings{
		"VELOCITY_REDIS_ADDRS": "a=" + addrs[0] + ",b=" + addrs[1], "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "8",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_ON_STORE_FAILURE": mode,
		"VELOCITY_MEMORY_MAX_BUCKETS": "100000",
	})
	faults := []func(){
		servers[1].Kill, servers[1].Restart, servers[0].Pause, servers[0].Resume, servers[1].Kill, servers[1].Restart,
	}
	r := &recorder{}
	const perTurn, workers = 14, 8
	turns := make(chan int)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := range turns {
				turn(p, r, i)
			}
		})
	}
	for i := range n / perTurn {
		if every := n/perTurn/(len(faults)+1) + 1; i%every == every-1 {
			faults[i/every]()
		}
		turns <- i
	}
	close(turns)
	running.Wait()
	require.Empty(t, r.errs)
	require.Equal(t, n/perTurn*perTurn, r.seen.total())
	return p, r.seen
}

// turn makes 14 decisions.
func turn(p *process, r *recorder, i int) {
	client := func(j int) string { return fmt.Sprint("client-", (i*7+j*j)%97) }
	for j := range 3 {
		r.note(p.ask(http.MethodGet, p.url+"/api/resource", "", "X-Client-ID: "+client(j)))
	}
	r.noteBody(p.ask(http.MethodPost, p.url+"/v1/check", fmt.Sprintf(`{"key":%q}`, client(4))))
	var checks []string
	for j := range 10 {
		checks = append(checks, fmt.Sprintf(`{"key":%q,"cost":%d}`, client(5+j), 1+j%2))
	}
	checks = append(checks, fmt.Sprintf(`{"key":%q,"cost":-1}`, client(5))) // a problem in its place
	r.noteBody(p.ask(http.MethodPost, p.url+"/v1/checks", `{"checks":[`+strings.Join(checks, ",")+`]}`))

	_, _ = p.ask(http.MethodPost, p.url+"/v1/check", `{"key":"peeks","cost":0}`)
	_, _ = p.ask(http.MethodPost, p.url+"/v1/check", `{"policy":"other","key":"a"}`)
	_, _ = p.ask(http.MethodGet, p.url+"/api/%2fresource", "")
}

// ofStatus is what the live page is told.
func (p *process) ofStatus() tally {
	p.t.Helper()
	var c tally
	for _, d := range p.mustAsk(http.MethodGet, p.admin+"/v1/status", "").json(p.t)["decisions"].([]any) {
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

func (p *process) ofMetrics() tally {
	p.t.Helper()
	count := func(label string) int { return int(p.metric("velocity_decisions_total", label)) }
	return tally{
		count(`outcome="allowed"`), count(`outcome="denied"`), count(`outcome="unavailable"`), count(`store="fallback"`),
	}
}

// ofLog is for a process that has ended.
func (p *process) ofLog() tally {
	p.t.Helper()
	var c tally
	for msg, n := range map[string]*int{
		"Decision: ALLOWED": &c.Allowed, "Decision: BLOCKED (429)": &c.Denied, "Decision: BLOCKED (503)": &c.Unavailable,
	} {
		for _, line := range p.logged(msg) {
			*n++
			if line["store"] == "fallback" {
				c.Fallback++
			}
		}
	}
	return c
}

// Whoever counts decisions, the client, the metrics, the live page and the log, counts the same, whatever failed.
func TestConsistency_everybodyCountsTheSame(t *testing.T) {
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			began := time.Now()
			p, seen := mixedRun(t, mode, *consistencyRequests/3)
			t.Logf("%+v in %v", seen, time.Since(began))
			assert.Positive(t, seen.Denied)
			assert.Positive(t, seen.Fallback, "a shard failed")
			assert.Equal(t, seen, p.ofMetrics(), "metrics")
			assert.Equal(t, seen, p.ofStatus(), "live page")
			assert.InDelta(t, seen.total(), p.metric("velocity_decision_duration_seconds_count"), 0, "times")
			assert.Zero(t, p.metric("velocity_log_lines_dropped_total"))
			p.stop()
			assert.Equal(t, seen, p.ofLog(), "log")
		})
	}
}
