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

	"github.com/velocity-limiter/velocity/internal/domain"
)

// door is one way in. All must take the same request for the same.
type door struct {
	name string
	// resource is the last segment of the path that the tables ask for.
	resource string
	// forwards is set where a server behind the door gets what passes.
	forwards bool
	// ask spells a request for a target, with further header lines, each with its CRLF.
	ask func(target, lines string) string
}

// plainly asks as a client does.
func plainly(target, lines string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n"
}

// onBehalf asks as a proxy does that names the target in a header.
func onBehalf(header string) func(target, lines string) string {
	return func(target, lines string) string {
		return plainly("/v1/forward-auth", header+": "+target+"\r\n"+lines)
	}
}

var doors = []door{
	{name: "middleware", resource: "resource", ask: plainly},
	{name: "proxy", resource: "orders", ask: plainly, forwards: true},
	{name: "forward-auth, as Traefik and Caddy", resource: "orders", ask: onBehalf("X-Forwarded-Uri")},
	{name: "forward-auth, as nginx", resource: "orders", ask: onBehalf("X-Original-URI")},
	{name: "forward-auth, as ingress-nginx", resource: "orders", ask: onBehalf("X-Original-URL")},
	{name: "forward-auth, as Envoy", resource: "orders", ask: func(target, lines string) string {
		return plainly("/v1/forward-auth"+target, lines)
	}},
}

// witness sees what is decided and what the upstream gets.
type witness struct {
	mu       sync.Mutex
	decided  []domain.Request
	reached  []string // request URIs
	upstream http.Header
}

func (w *witness) decide(req domain.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	req.Method, req.Host, req.Path = strings.Clone(req.Method), strings.Clone(req.Host), strings.Clone(req.Path)
	w.decided = append(w.decided, req)
}

func (w *witness) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decided, w.reached, w.upstream = nil, nil, nil
}

// open serves the door and returns its address. trusted are the proxies that it believes.
func (d door) open(t *testing.T, w *witness, trusted ...string) string {
	t.Helper()
	cfg := testConfig()
	if d.forwards {
		cfg = proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reached, w.upstream = append(w.reached, r.RequestURI), r.Header
		}))
	}
	cfg.TrustedProxies = trusted
	allow := decided(t, 9, 1, true)
	return start(t, cfg, limiterFunc(func(req domain.Request) (domain.Decision, error) {
		w.decide(req)
		return allow, nil
	}))
}

// TestDoors_everySpellingOfAPathIsTheSame: R stands for the resource, %R for it with its first letter encoded.
func TestDoors_everySpellingOfAPathIsTheSame(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			w := new(witness)
			addr := d.open(t, w, "loopback")
			for target, want := range map[string]string{
				"/api/R": "/api/R", "/api//R": "/api/R", "/api/./R": "/api/R", "/api/%R": "/api/R", "//api/R": "/api/R",
				"/x/../api/R?a=/../b": "/api/R", "/api/x/%2e%2e/R": "/api/R", "/api/x/.%2E/R": "/api/R", "/%61pi/%R": "/api/R",
				"/API/R": "/API/R", "/api/R/": "/api/R/", "/api/R%20": "/api/R%20", "/api/R%3fa": "/api/R%3Fa",
				"/api/R;a=b": "/api/R;a=b", "/api/R%3b": "/api/R%3B", "/api/é": "/api/%C3%A9", "/api/R%23": "/api/R%23",
				"/api%2fR": "", "/api%2FR": "", "/api%5cR": "", "/api\\R": "", "/api/R%00": "", "/../api/R": "",
				"/api/../../api/R": "", "/%2e%2e/api/R": "", "/api/%2572esource": "", "/api/R%": "", "/api/R%zz": "",
				"/api/%25%37%32": "",
			} {
				w.reset()
				spell := strings.NewReplacer("%R", fmt.Sprintf("%%%02x", d.resource[0])+d.resource[1:], "R", d.resource)
				target = strings.NewReplacer("/API/R", "/API/"+d.resource).Replace(target)
				target, want = spell.Replace(target), spell.Replace(want)
				got := exchange(t, addr, d.ask(target, ""), 1)[0]
				if want == "" {
					assert.Equal(t, 400, got.status, target)
					assert.Contains(t, got.problem(t)["detail"], "path: ", target)
					assert.Empty(t, w.decided, target)
					assert.Empty(t, w.reached, target)
					continue
				}
				if d.name == "middleware" && want != "/api/"+d.resource {
					assert.Equal(t, 404, got.status, target)
					continue
				}
				assert.Equal(t, 200, got.status, "%s: %s", target, got.body)
				require.Len(t, w.decided, 1, target)
				assert.Equal(t, want, w.decided[0].Path, target)
				if d.forwards {
					reached, _, _ := strings.Cut(w.reached[0], "?")
					assert.Equal(t, []string{want}, []string{reached}, "what was matched is forwarded")
				}
			}
		})
	}
}

func TestDoors_encodedSlashesWhereTheyAreAllowed(t *testing.T) {
	for _, d := range doors[1:] {
		t.Run(d.name, func(t *testing.T) {
			w := new(witness)
			var reached string
			cfg := testConfig()
			if d.forwards {
				cfg = proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) { reached = r.RequestURI }))
			}
			cfg.EncodedSlashes, cfg.TrustedProxies = "allow", []string{"loopback"}
			allow := decided(t, 9, 1, true)
			addr := start(t, cfg, limiterFunc(func(req domain.Request) (domain.Decision, error) {
				w.decide(req)
				return allow, nil
			}))
			for target, want := range map[string]string{
				"/a%2fb": "/a%2Fb", "/a/..%2Fb": "/a/..%2Fb", "/a%2f%2e%2e%2fb": "/a%2F..%2Fb", "/a%5cb": "", "/a%252fb": "",
			} {
				w.reset()
				got := exchange(t, addr, d.ask(target, ""), 1)[0]
				if want == "" {
					assert.Equal(t, 400, got.status, target)
					continue
				}
				assert.Equal(t, 200, got.status, target)
				assert.Equal(t, want, w.decided[0].Path, target)
				assert.True(t, !d.forwards || reached == want, reached)
			}
		})
	}
}

// TestDoors_whoTheClientIs: the peer is 127.0.0.1.
func TestDoors_whoTheClientIs(t *testing.T) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			var trusting, distrusting witness
			believes, ignores := d.open(t, &trusting, "loopback", "10.0.0.0/8"), d.open(t, &distrusting)
			target := "/api/" + d.resource
			for lines, want := range map[string]string{
				"":                               "127.0.0.1",
				"X-Forwarded-For: 192.0.2.1\r\n": "192.0.2.1",
				"X-Forwarded-For: 198.51.100.9, 192.0.2.1\r\n":                          "192.0.2.1",
				"X-Forwarded-For: 192.0.2.1, 10.1.2.3\r\n":                              "192.0.2.1",
				"X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.1\r\n":       "192.0.2.1",
				"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n": "192.0.2.1",
				"X-Forwarded-For: [2001:db8::1]:443\r\n":                                "2001:db8::1",
				"X-Forwarded-For: ::ffff:192.0.2.1\r\n":                                 "192.0.2.1",
				"X-Forwarded-For: 192.0.2.1, unknown\r\n":                               "127.0.0.1",
				"X-Forwarded-For:\r\n":                                                  "127.0.0.1",
				"X-Real-IP: 192.0.2.1\r\n":                                              "127.0.0.1",
				"X_Forwarded_For: 192.0.2.1\r\n":                                        "127.0.0.1",
				"Forwarded: for=192.0.2.1\r\n":                                          "127.0.0.1",
				"True-Client-IP: 192.0.2.1\r\nCF-Connecting-IP: 192.0.2.1\r\n":          "127.0.0.1",
				"Connection: X-Forwarded-For\r\nX-Forwarded-For: 192.0.2.1\r\n":         "192.0.2.1",
			} {
				trusting.reset()
				exchange(t, believes, d.ask(target, lines), 1)
				require.Len(t, trusting.decided, 1, lines)
				assert.Equal(t, want, trusting.decided[0].Client.String(), lines)

				distrusting.reset()
				exchange(t, ignores, d.ask(target, lines), 1)
				require.Len(t, distrusting.decided, 1, lines)
				assert.Equal(t, "127.0.0.1", distrusting.decided[0].Client.String(), lines)
			}
		})
	}
}

// smuggled is what hides in the requests of the table below. It must never be decided, nor reach an upstream.
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

// TestDoors_smuggledRequestsAreNotDecided: where there is an upstream every one is refused. Where there is none, a few
// that are read in one way only are answered, and the connection ends.
func TestDoors_smuggledRequestsAreNotDecided(t *testing.T) {
	for _, d := range doors[:3] {
		t.Run(d.name, func(t *testing.T) {
			w := new(witness)
			addr := d.open(t, w, "loopback")
			for name, c := range smuggling {
				w.reset()
				conn := dial(t, addr)
				_, err := io.WriteString(conn, d.ask("/api/"+d.resource, c.lines)+c.body)
				require.NoError(t, err)
				in := bufio.NewReader(conn)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err, name)
				got := read(t, res)
				if got.status != 400 && assert.False(t, d.forwards, "%s: %d", name, got.status) {
					assert.Equal(t, 200, got.status, name)
				}
				rest, err := io.ReadAll(in)
				require.NoError(t, err, "%s: the connection is closed", name)
				assert.Empty(t, string(rest), name)
				assert.LessOrEqual(t, len(w.decided), 1, name)
				for _, req := range w.decided {
					assert.NotContains(t, req.Path, "hidden", name)
				}
				assert.Empty(t, w.reached, name)
				require.NoError(t, conn.Close())
			}
		})
	}
}

// TestDoors_chunksThatAreReadDifferently are bodies: the request is decided before they are read.
func TestDoors_chunksThatAreReadDifferently(t *testing.T) {
	for name, body := range map[string]string{
		"bare LF after a size":        "5\nhello\r\n0\r\n\r\n",
		"bare LF in an extension":     "5;a\nb\r\nhello\r\n0\r\n\r\n",
		"space before an extension":   "5 ;a=b\r\nhello\r\n0\r\n\r\n",
		"size with a prefix":          "0x5\r\nhello\r\n0\r\n\r\n",
		"size with a sign":            "+5\r\nhello\r\n0\r\n\r\n",
		"size too large":              "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"too much in a chunk":         "4\r\nhello\r\n0\r\n\r\n",
		"no size":                     "\r\nhello\r\n0\r\n\r\n",
		"framing in the trailer":      "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
		"bare LF after the last size": "5\r\nhello\r\n0\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var whole sync.Map
			addr := start(t, proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
				if _, err := io.ReadAll(r.Body); err == nil {
					whole.Store(r.RequestURI, true)
				}
			})), always(decided(t, 9, 1, true)))
			conn := dial(t, addr)
			_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+body+smuggled)
			require.NoError(t, err)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			assert.Equal(t, 400, read(t, res).status)
			rest, _ := io.ReadAll(in)
			assert.Empty(t, string(rest))
			whole.Range(func(uri, _ any) bool { return assert.Fail(t, "reached the upstream", uri) })
		})
	}
}

func TestDoors_methodsAreNotOverridden(t *testing.T) {
	w := new(witness)
	addr := doors[1].open(t, w)
	exchange(t, addr, plainly("/x", "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n"), 1)
	assert.Equal(t, "GET", w.decided[0].Method)
	for name := range w.upstream {
		assert.NotContains(t, strings.ToLower(name), "method")
	}
}
