package httpfiber_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// entryPoint is one way to send a request. All must understand the same request in the same way.
type entryPoint struct {
	name string
	// resource is the last segment of the path that the tables ask for.
	resource string
	// ask spells a request for a target, with further header lines, each with its CRLF.
	ask func(target, lines string) string
}

// plainly sends a request as a client does.
func plainly(target, lines string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n"
}

// onBehalf asks as a proxy that names the target in a header.
func onBehalf(header string) func(target, lines string) string {
	return func(target, lines string) string {
		return plainly("/v1/forward-auth", header+": "+target+"\r\n"+lines)
	}
}

var entryPoints = []entryPoint{
	{name: "middleware", resource: "resource", ask: plainly},
	{name: "forward-auth, as Traefik and Caddy", resource: "orders", ask: onBehalf("X-Forwarded-Uri")},
	{name: "forward-auth, as nginx", resource: "orders", ask: onBehalf("X-Original-URI")},
	{name: "forward-auth, as ingress-nginx", resource: "orders", ask: onBehalf("X-Original-URL")},
	{name: "forward-auth, as Envoy", resource: "orders", ask: func(target, lines string) string {
		return plainly("/v1/forward-auth"+target, lines)
	}},
}

// recorder records what is decided.
type recorder struct {
	mu      sync.Mutex
	decided []policy.Request
}

func (w *recorder) decide(req policy.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	req.Method, req.Host, req.Path = strings.Clone(req.Method), strings.Clone(req.Host), strings.Clone(req.Path)
	w.decided = append(w.decided, req)
}

func (w *recorder) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decided = nil
}

// open serves the entry point and returns its address. trusted are its trusted proxies.
func (e entryPoint) open(t *testing.T, w *recorder, trusted ...string) string {
	t.Helper()
	cfg := testConfig()
	cfg.TrustedProxies = trusted
	allow := decided(t, 9, 1, true)
	return start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		w.decide(req)
		return allow, nil
	}))
}

// TestEntryPoints_everySpellingOfAPathIsTheSame: R stands for the resource, %R for it with its first letter encoded.
func TestEntryPoints_everySpellingOfAPathIsTheSame(t *testing.T) {
	for _, e := range entryPoints {
		t.Run(e.name, func(t *testing.T) {
			w := new(recorder)
			addr := e.open(t, w, "loopback")
			for target, want := range webtest.Paths {
				w.reset()
				spell := strings.NewReplacer("%R", fmt.Sprintf("%%%02x", e.resource[0])+e.resource[1:], "R", e.resource)
				target = strings.NewReplacer("/API/R", "/API/"+e.resource).Replace(target)
				target, want = spell.Replace(target), spell.Replace(want)
				got := exchange(t, addr, e.ask(target, ""), 1)[0]
				if want == "" {
					assert.Equal(t, 400, got.status, target)
					assert.Contains(t, got.problem(t)["detail"], "path: ", target)
					assert.Empty(t, w.decided, target)
					continue
				}
				if e.name == "middleware" && want != "/api/"+e.resource {
					assert.Equal(t, 404, got.status, target)
					continue
				}
				assert.Equal(t, 200, got.status, "%s: %s", target, got.body)
				require.Len(t, w.decided, 1, target)
				assert.Equal(t, want, w.decided[0].Path, target)
			}
		})
	}
}

func TestEntryPoints_encodedSlashesWhereTheyAreAllowed(t *testing.T) {
	for _, e := range entryPoints[1:] {
		t.Run(e.name, func(t *testing.T) {
			w := new(recorder)
			cfg := testConfig()
			cfg.EncodedSlashes, cfg.TrustedProxies = "allow", []string{"loopback"}
			allow := decided(t, 9, 1, true)
			addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
				w.decide(req)
				return allow, nil
			}))
			for target, want := range webtest.EncodedSlashes {
				w.reset()
				got := exchange(t, addr, e.ask(target, ""), 1)[0]
				if want == "" {
					assert.Equal(t, 400, got.status, target)
					continue
				}
				assert.Equal(t, 200, got.status, target)
				assert.Equal(t, want, w.decided[0].Path, target)
			}
		})
	}
}

// TestEntryPoints_whoTheClientIs: the peer is 127.0.0.1.
func TestEntryPoints_whoTheClientIs(t *testing.T) {
	for _, e := range entryPoints {
		t.Run(e.name, func(t *testing.T) {
			var trusting, distrusting recorder
			believes, ignores := e.open(t, &trusting, "loopback", "10.0.0.0/8"), e.open(t, &distrusting)
			target := "/api/" + e.resource
			for lines, want := range webtest.Clients {
				trusting.reset()
				exchange(t, believes, e.ask(target, lines), 1)
				require.Len(t, trusting.decided, 1, lines)
				assert.Equal(t, want, trusting.decided[0].Client.String(), lines)

				distrusting.reset()
				exchange(t, ignores, e.ask(target, lines), 1)
				require.Len(t, distrusting.decided, 1, lines)
				assert.Equal(t, "127.0.0.1", distrusting.decided[0].Client.String(), lines)
			}
		})
	}
}

// smuggled is what hides in the requests of the table below. It must never be decided.
const smuggled = "GET /api/hidden HTTP/1.1\r\nHost: hidden\r\n\r\n"

// smuggling are requests that servers are known to cut at different places: the lines of the header after Host, and
// what follows the header.
var smuggling = map[string]struct{ lines, body string }{
	"two lengths":                {"Content-Length: 0\r\nContent-Length: 50\r\n", smuggled},
	"two equal lengths":          {"Content-Length: 50\r\nContent-Length: 50\r\n", smuggled},
	"list of lengths":            {"Content-Length: 0, 50\r\n", smuggled},
	"signed length":              {"Content-Length: +5\r\n", smuggled},
	"hexadecimal length":         {"Content-Length: 0x5\r\n", smuggled},
	"length with a space in it":  {"Content-Length: 5 0\r\n", smuggled},
	"unknown encoding":           {"Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + smuggled},
	"quoted encoding":            {"Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n" + smuggled},
	"encoding after a tabulator": {"Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n" + smuggled},
	"two encodings":              {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n" + smuggled},
	"list of encodings":          {"Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n" + smuggled},
	"two hosts":                  {"Host: other\r\n", smuggled},
	"space before the colon":     {"Content-Length : 50\r\n", smuggled},
	"space before the name":      {"X-A: b\r\n Content-Length: 50\r\n", smuggled},
	"line without colon":         {"Garbage\r\n", smuggled},
	"NUL in a value":             {"X-A: a\x00b\r\n", smuggled},
	"CR in a value":              {"X-A: a\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
	"length and encoding":        {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
	"encoding and length":        {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + smuggled},
	"identity and length":        {"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "0\r\n\r\n" + smuggled},
	"folded encoding":            {"Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n" + smuggled},
	"folded value":               {"X-A: b\r\n\tc\r\n", smuggled},
	"bare LF after a line":       {"X-A: b\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
	"bare LF at the end":         {"X-A: b\r\n\nGET /api/hidden HTTP/1.1\r\nHost: hidden\r\n", ""},
}

// TestEntryPoints_smuggledRequestsAreNotDecided: a few that are read in one way only are answered, and the connection ends.
func TestEntryPoints_smuggledRequestsAreNotDecided(t *testing.T) {
	for _, e := range entryPoints[:2] {
		t.Run(e.name, func(t *testing.T) {
			w := new(recorder)
			addr := e.open(t, w, "loopback")
			for name, c := range smuggling {
				w.reset()
				conn := dial(t, addr)
				_, err := io.WriteString(conn, e.ask("/api/"+e.resource, c.lines)+c.body)
				require.NoError(t, err)
				in := bufio.NewReader(conn)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err, name)
				got := read(t, res)
				if got.status != 400 {
					assert.Equal(t, 200, got.status, name)
				}
				rest, err := io.ReadAll(in)
				require.NoError(t, err, "%s: the connection is closed", name)
				assert.Empty(t, string(rest), name)
				assert.LessOrEqual(t, len(w.decided), 1, name)
				for _, req := range w.decided {
					assert.NotContains(t, req.Path, "hidden", name)
				}
				require.NoError(t, conn.Close())
			}
		})
	}
}

// TestEntryPoints_methodsKeepTheirCase: an upstream may take Post for POST, whose policies then were avoided.
func TestEntryPoints_methodsKeepTheirCase(t *testing.T) {
	w := new(recorder)
	addr := entryPoints[0].open(t, w, "loopback")
	for _, method := range []string{"Get", "get", "pOST", "Propfind"} {
		for _, raw := range []string{
			method + " /api/resource HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /v1/forward-auth HTTP/1.1\r\nHost: x\r\nX-Forwarded-Uri: /a\r\nX-Forwarded-Method: " + method + "\r\n\r\n",
			"GET /v1/forward-auth/a HTTP/1.1\r\nHost: x\r\nX-Original-Method: " + method + "\r\n\r\n",
		} {
			got := exchange(t, addr, raw, 1)[0]
			assert.Equal(t, 400, got.status, raw)
			got.problem(t)
		}
	}
	assert.Empty(t, w.decided)
}

func TestEntryPoints_methodsAreNotOverridden(t *testing.T) {
	w := new(recorder)
	addr := entryPoints[0].open(t, w)
	exchange(t, addr, plainly("/api/resource", "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n"), 1)
	assert.Equal(t, "GET", w.decided[0].Method)
}
