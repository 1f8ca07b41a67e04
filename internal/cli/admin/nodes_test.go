package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// startNode starts a server that answers as an admin plane with one body, and returns its host:port.
func startNode(t *testing.T, answer string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, `{"detail":"Authorization: this is not the token"}`, http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// runCommand runs a command and returns its exit code and what it prints.
func runCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, failed strings.Builder
	code = map[string]*command.Command{"status": &Status, "top": &Top}[args[0]].Execute(t.Context(), args[1:], command.Streams{In: strings.NewReader(""), Out: &out, Err: &failed})
	return code, out.String(), failed.String()
}

func nodeTop(requests string) string {
	return `{"window_ms":60000,"policies":[{"policy":"default","requests":10,"denials":4,"by_denials":[],"by_requests":[` + requests + `]}]}`
}

func TestTop_addsUpTheNodesAndNamesTheMissing(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_TOKEN", "secret")
	a := startNode(t, nodeTop(`{"key":"alice","count":5,"error":1},{"key":"bob","count":4,"error":0}`))
	b := startNode(t, nodeTop(`{"key":"bob","count":3,"error":0},{"key":"bob","source":"ip","count":1,"error":0}`))
	code, stdout, stderr := runCommand(t, "top", "-addr", a+", "+b, "-by", "requests", "-n", "2")
	assert.Zero(t, code)
	assert.Empty(t, stderr)
	assert.Equal(t, "2 of 2 nodes. The last 60 s\n\ndefault: 20 requests, 8 denials\n  CLIENT  REQUESTS\n  bob     7\n  alice   <= 5\n", stdout)

	code, stdout, stderr = runCommand(t, "top", "-addr", a+",127.0.0.1:1,"+b, "-json")
	assert.Equal(t, command.ExitFailed, code)
	assert.Equal(t, "velocity: 1 of 3 nodes did not answer and are not counted\n"+
		"nothing listens at http://127.0.0.1:1: the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR\n", stderr)
	var sum topOfNodes
	require.NoError(t, json.Unmarshal([]byte(stdout), &sum))
	assert.EqualValues(t, 20, sum.Policies[0].Requests, "what the others said")
	require.Len(t, sum.Nodes, 3)
	assert.Contains(t, sum.Nodes[1].Error, "nothing listens")

	code, stdout, stderr = runCommand(t, "top", "-addr", "127.0.0.1:1,127.0.0.1:2")
	assert.Equal(t, command.ExitFailed, code)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "2 of 2 nodes did not answer")
}

func TestTop_asksANodeThatIsNamedTwiceOnce(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_TOKEN", "secret")
	a := startNode(t, nodeTop(""))
	_, stdout, _ := runCommand(t, "top", "-addr", a+","+a+",http://"+a)
	assert.Contains(t, stdout, "default: 10 requests, 4 denials")
}

func TestStatus_showsEachNodeAndTheSum(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_TOKEN", "secret")
	node := func(state, up string) string {
		return startNode(t, `{"state":"`+state+`","version":"v1","decisions":[{"policy":"default","outcome":"allowed","store":"redis","count":3}],
			"latency_seconds":{"bounds":[0.001,0.01],"counts":[1,1,0],"sum":0.01},
			"shards":[{"name":"shard-0","up":`+up+`,"breaker":"closed","queued":1,"in_flight":2,"failures":4}]}`)
	}
	a, b := node("ready", "true"), node("degraded", "false")
	t.Setenv("VELOCITY_ADMIN_ADDR", a+","+b+",127.0.0.1:1")
	code, stdout, stderr := runCommand(t, "status")
	assert.Equal(t, command.ExitFailed, code)
	assert.Contains(t, stderr, "1 of 3 nodes did not answer")
	for _, want := range []string{
		`(?m)^` + a + ` +ready +v1$`, `(?m)^` + b + ` +degraded +v1$`, `(?m)^127.0.0.1:1 +no answer +-$`,
		`decided within: <= 1ms at the median, <= 10ms for 99 %`, `(?m)^shard-0 +DOWN for 1 of 2 +closed +2 +4 +8 +-$`,
		`(?m)^default +allowed +redis +6$`,
	} {
		assert.Regexp(t, want, stdout)
	}
	_, stdout, _ = runCommand(t, "status", "-json")
	var sum statusOfNodes
	require.NoError(t, json.Unmarshal([]byte(stdout), &sum))
	assert.Equal(t, "degraded, ready", sum.State)
	assert.False(t, sum.Shards[0].Up)
	require.Len(t, sum.Nodes, 3)
	assert.Contains(t, string(sum.Nodes[0].Answer), `"in_flight":2`, "each node's own answer")
	assert.NotEmpty(t, sum.Nodes[2].Error)
}

func TestStatus_ofOneNodeIsAsItCame(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_TOKEN", "secret")
	const answer = `{"state":"ready","version":"v1","other":1}`
	code, stdout, _ := runCommand(t, "status", "-json", "-addr", startNode(t, answer))
	assert.Zero(t, code)
	assert.JSONEq(t, answer, stdout)
}

func TestNodes_aNameThatIsNotFoundIsANodeThatDoesNotAnswer(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_TOKEN", "secret")
	code, stdout, stderr := runCommand(t, "top", "-addr", startNode(t, nodeTop(""))+",velocity.invalid:3001")
	assert.Equal(t, command.ExitFailed, code)
	assert.Contains(t, stdout, "1 of 2 nodes. ")
	assert.Contains(t, stderr, "velocity.invalid")
	code, _, stderr = runCommand(t, "top", "-addr", "127.0.0.1:1,ftp://x")
	assert.Equal(t, command.ExitUsage, code)
	assert.Contains(t, stderr, `"ftp://x": must be host:port or an http URL`)
}

// An empty address is the default one, which may be another service's.
func TestNodes_anEmptyAddressBesideOthersIsRefused(t *testing.T) {
	for _, list := range []string{"127.0.0.1:1,", ",127.0.0.1:1", "127.0.0.1:1, ,127.0.0.1:2"} {
		code, _, stderr := runCommand(t, "status", "-addr", list)
		assert.Equal(t, command.ExitUsage, code)
		assert.Contains(t, stderr, "-addr: \""+list+"\": one of the addresses is empty")
	}
}

func TestNodeAddrs_eachNodeCountsOnce(t *testing.T) {
	parse := func(texts ...string) (ips []netip.Addr) {
		for _, s := range texts {
			ips = append(ips, netip.MustParseAddr(s))
		}
		return ips
	}
	assert.Equal(t, []string{"10.0.0.1:3001", "10.0.0.2:3001"}, nodeAddrs(parse("10.0.0.2", "2001:db8::2", "::ffff:10.0.0.1", "2001:db8::1"), "3001"))
	assert.Equal(t, []string{"[2001:db8::1]:3001"}, nodeAddrs(parse("2001:db8::1"), "3001"))
	for _, addr := range []string{"127.0.0.1:3001", "localhost:3001", ":3001", "https://ops.example", ""} {
		got, err := resolve(t.Context(), addr)
		require.NoError(t, err)
		assert.Equal(t, []string{addr}, got)
	}
}

func TestSumClients_boundsWhatAFullListDoesNotShow(t *testing.T) {
	full := []topClient{{Key: "a", Count: 9}, {Key: "b", Count: 4, Error: 2}}
	short := []topClient{{Key: "c", Count: 7, Error: 1}}
	assert.Equal(t, []topClient{
		{Key: "c", Count: 11, Error: 5}, // it may be next in the full list, with 4
		{Key: "a", Count: 9},
		{Key: "b", Count: 4, Error: 2},
	}, sumClients([][]topClient{full, short}, 2, 10))
	assert.Equal(t, []topClient{}, sumClients([][]topClient{nil, {}}, 2, 10))
	assert.Equal(t, []topClient{{Key: "a", Count: 9}}, sumClients([][]topClient{full}, 3, 1))
}

func TestHistogram_addsOnlyEqualClasses(t *testing.T) {
	h := (&histogram{Bounds: []float64{1}, Counts: []uint64{1, 2}, Sum: 3}).clone()
	h.add(&histogram{Bounds: []float64{1}, Counts: []uint64{1, 1}, Sum: 1})
	assert.Equal(t, histogram{Bounds: []float64{1}, Counts: []uint64{2, 3}, Sum: 4}, h)
	h.add(&histogram{Bounds: []float64{2}, Counts: []uint64{1, 1}})
	assert.Equal(t, "-", h.quantile(.5))
}
