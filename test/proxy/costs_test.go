package proxy

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

var meteredRequests = flag.Int("costs.requests", 1000, "requests of each process whose costs are known afterwards")

// What each request under the policies of metered costs.
const (
	fullBucket           = 800_000 // it takes an hour to refill one token
	defaultEstimate      = 50
	missingCost, ourCost = 30, 7
)

// metered are policies of requests whose costs are known afterwards: by one limit, by several with a permit and a limit that tenants
// share, and with tokens that come back.
func metered(t *testing.T) harness.Settings {
	t.Helper()
	cost := fmt.Sprintf("{ estimate: [json:/max_tokens, %d], actual: usage, missing: %d, failed: %d }", defaultEstimate, missingCost, ourCost)
	return harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", fmt.Sprintf(`
shared:
  - { name: tenant, key: header:X-Tenant, rate: 1/h, capacity: %[2]d }
policies:
  - name: plain
    match: { path: "/plain/**" }
    key: header:X-Client
    cost: %[1]s
    limits: [ { rate: 1/h, capacity: %[2]d } ]
  - name: held
    match: { path: "/held/**" }
    key: header:X-Client
    cost: %[1]s
    limits:
      - { name: tokens, rate: 1/h, capacity: %[2]d }
      - { name: parallel, concurrent: 1000, lease: 1h }
      - { use: tenant }
  - name: returned
    match: { path: "/returned/**" }
    key: header:X-Client
    cost: %[1]s
    refund_on: [503]
    limits: [ { rate: 1/h, capacity: %[2]d } ]
`, cost, fullBucket))}
}

// meteredRequest is one request, and what its answer says.
type meteredRequest struct {
	kind     string
	estimate int // 0: the body does not say
	actual   int // what a whole answer reports
	seen     int // what an answer has reported that breaks off; at most actual
}

func (m meteredRequest) path() string {
	return fmt.Sprintf("/%s?actual=%d&seen=%d", m.kind, m.actual, m.seen)
}

func (m meteredRequest) body() string {
	if m.estimate == 0 {
		return `{"prompt":"hello"}`
	}
	return fmt.Sprintf(`{"prompt":"max_tokens","max_tokens":%d}`, m.estimate)
}

// cost is what the request costs, whose client got that status, or 0 if it did not wait for one.
func (m meteredRequest) cost(policy string, status int) int {
	estimate := m.estimate
	if estimate == 0 {
		estimate = defaultEstimate
	}
	switch {
	case estimate > fullBucket: // denied
		return 0
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout: // our own
		return ourCost
	case status == http.StatusServiceUnavailable && policy == "returned":
		return 0
	}
	switch m.kind {
	case "none", "invalid":
		return missingCost
	case "limited", "unavailable":
		return ourCost
	case "left":
		return estimate
	case "left-stream", "breaks", "breaks-length":
		return max(estimate, m.seen)
	}
	return m.actual
}

// meteredKinds are those of which many can be sent at once. "silent" takes as long as the upstream may be silent.
var meteredKinds = []string{
	"json", "chunked", "events", "parts", "none", "invalid", "limited", "unavailable", "reports-error", "gone", "breaks",
	"breaks-length", "left", "left-stream",
}

// meteredUpstream answers as the request's path says. begun is called when a request has arrived.
func meteredUpstream(begun func(r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		begun(r)
		kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		actual, seen := r.FormValue("actual"), r.FormValue("seen")
		say := func(texts ...string) {
			for _, text := range texts {
				_, _ = io.WriteString(w, text)
				flush(w)
			}
		}
		message := "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":" + seen + ",\"output_tokens\":0}}}\n\n"
		total := `{"usage":{"total_tokens":` + actual + `}}`
		if kind == "events" || kind == "parts" || kind == "breaks" || kind == "left-stream" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		switch kind {
		case "json":
			_, _ = io.WriteString(w, total)
		case "chunked":
			say(`{"usage":{"total_`, `tokens":`+actual, `}}`)
		case "events":
			say("data: {\"text\":\"usage\"}\n\n", "data: "+total+"\n\n", "data: [DONE]\n\n")
		case "parts":
			all, _ := strconv.Atoi(actual)
			some, _ := strconv.Atoi(seen)
			say(message, "data: {\"usage\":{\"output_tokens\":1}}\n\n", fmt.Sprintf("data: {\"usage\":{\"output_tokens\":%d}}\n\n", all-some))
		case "none":
			say("hello")
		case "invalid":
			say(`{"usage":{"total_tokens":"many"}}`)
		case "limited":
			w.WriteHeader(http.StatusTooManyRequests)
		case "unavailable":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "reports-error":
			w.WriteHeader(http.StatusInternalServerError)
			say(total)
		case "gone":
			panic(http.ErrAbortHandler)
		case "breaks":
			say(message)
			panic(http.ErrAbortHandler)
		case "breaks-length":
			w.Header().Set("Content-Length", "100000")
			say(`{"usage":{"total_tokens":` + seen + `},`)
			panic(http.ErrAbortHandler)
		case "left-stream":
			say(message)
			<-r.Context().Done()
		case "left", "silent":
			<-r.Context().Done()
		}
	}
}

// send sends a request, and returns the status of the answer, 0 if there is none.
func (m meteredRequest) send(ctx context.Context, s *server, client *http.Client, policy, key string, begun <-chan struct{}) (status int, err error) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/"+policy+m.path(), strings.NewReader(m.body()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Client", key)
	req.Header.Set("X-Tenant", key[:1])
	if m.kind == "left" {
		go func() {
			<-begun
			leave()
		}()
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Request-Id", ctx.Value(requestName{}).(string))
	res, err := client.Do(req)
	if m.kind == "left" && err != nil {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	if m.kind == "left-stream" && res.StatusCode == http.StatusOK {
		_, err := io.ReadFull(res.Body, make([]byte, len("event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":")))
		return res.StatusCode, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if broke := strings.HasPrefix(m.kind, "breaks") && res.StatusCode == http.StatusOK; broke != (err != nil) {
		return 0, fmt.Errorf("%s: the answer's end: %w", m.kind, err)
	}
	return res.StatusCode, nil
}

// requestName is the key of a context whose value is the request's id.
type requestName struct{}

// meteredRun sends requests, and adds up what they cost.
type meteredRun struct {
	server *server
	begun  sync.Map // by request id, a channel that is closed when the request has reached the upstream

	mu    sync.Mutex
	spent map[string]int // by "policy/key"
}

func (r *meteredRun) arrived(req *http.Request) {
	if c, ok := r.begun.LoadAndDelete(req.Header.Get("X-Request-Id")); ok {
		close(c.(chan struct{}))
	}
}

func (r *meteredRun) send(t *testing.T, client *http.Client, n int, m meteredRequest) {
	policy := [...]string{"plain", "held", "returned"}[n%3]
	key := fmt.Sprintf("%c%d", 'a'+n%4, n%20)
	name, begun := fmt.Sprint("r", n), make(chan struct{})
	r.begun.Store(name, begun)
	status, err := m.send(context.WithValue(t.Context(), requestName{}, name), r.server, client, policy, key, begun)
	if !assert.NoError(t, err, m.kind) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	cost := m.cost(policy, status)
	r.spent[policy+"/"+key] += cost
	if policy == "held" {
		r.spent["shared%2Ftenant/"+key[:1]] += cost
	}
}

// Whatever becomes of thousands of requests, each has cost in the end what it must cost, exactly.
func TestCosts_levelsAreThoseOfTheModel(t *testing.T) { // not parallel: it would starve the others
	for _, client := range []protocol{protocols[0], protocols[3]} {
		for _, store := range []string{"memory", "redis"} {
			t.Run("client "+client.name+", store "+store, func(t *testing.T) {
				t.Parallel()
				r := &meteredRun{spent: map[string]int{}}
				settings := metered(t)
				settings["VELOCITY_UPSTREAM_TIMEOUT"] = "10s"
				if store == "redis" {
					settings["VELOCITY_REDIS_ADDRS"], settings["VELOCITY_TAKE_TIMEOUT"] = redistest.Start(t).Addr, "5s"
				}
				r.server = start(t, client, protocols[0].upstreamSettings(t, meteredUpstream(r.arrived)), settings)
				r.sendAll(t, client)
				r.levelsAgree(t)
				for _, policy := range []string{"plain", "held", "returned"} {
					estimated := r.server.Metric("velocity_usage_tokens_total", "policy", policy, "kind", "estimated")
					actual := r.server.Metric("velocity_usage_tokens_total", "policy", policy, "kind", "actual")
					assert.Positive(t, estimated, policy)
					assert.InDelta(t, r.total(policy), actual, 0, policy)
					assert.Positive(t, r.server.Metric("velocity_usage_missing_total", "policy", policy), policy)
				}
			})
		}
	}
}

// sendAll sends requests of all kinds, in random order.
func (r *meteredRun) sendAll(t *testing.T, client protocol) {
	const senders = 12
	var all sync.WaitGroup
	var sent atomic.Int64
	for range senders {
		all.Go(func() {
			transport := r.server.newTransport(client)
			defer transport.CloseIdleConnections()
			own := &http.Client{Transport: transport}
			for n := int(sent.Add(1)); n <= *meteredRequests; n = int(sent.Add(1)) {
				m := meteredRequest{kind: meteredKinds[rand.IntN(len(meteredKinds))], estimate: rand.IntN(200), seen: rand.IntN(300)}
				m.actual = m.seen + rand.IntN(300)
				if rand.IntN(20) == 0 {
					m.kind, m.estimate = "json", fullBucket+1
				}
				r.send(t, own, n, m)
			}
		})
	}
	for n := range senders { // these take the upstream's whole time
		all.Go(func() {
			transport := r.server.newTransport(client)
			defer transport.CloseIdleConnections()
			r.send(t, &http.Client{Transport: transport}, 1_000_000+n, meteredRequest{kind: "silent", estimate: 100, actual: 300})
		})
	}
	all.Wait()
}

func (r *meteredRun) total(policy string) (sum float64) {
	for key, spent := range r.spent {
		if strings.HasPrefix(key, policy+"/") {
			sum += float64(spent)
		}
	}
	return sum
}

// levelsAgree waits until each bucket has what the requests have left of it.
func (r *meteredRun) levelsAgree(t *testing.T) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		for key, spent := range r.spent {
			got := r.server.MustDo(http.MethodGet, r.server.Admin+"/v1/buckets/"+key, "")
			tokens := got.JSON(t)["limits"].([]any)[0].(map[string]any)["tokens"].(float64)
			assert.InDelta(c, fullBucket-spent, math.Floor(tokens), 0, key)
		}
	}, harness.Timeout, harness.Interval)
	require.NotEmpty(t, r.spent)
}
