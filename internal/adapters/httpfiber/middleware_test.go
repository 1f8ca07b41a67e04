package httpfiber_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
)

// keyedBy is a limiter whose policy has the header as its key. Like the real one, it copies a key while it decides.
type keyedBy struct {
	header string
	allow  decision.Decision

	mu   sync.Mutex
	keys []string
}

func (k *keyedBy) limiter() limiterFunc {
	return func(req policy.Request) (decision.Decision, error) {
		key, err := req.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: k.header})
		if err != nil {
			return decision.Decision{}, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.keys = append(k.keys, strings.Clone(key))
		return k.allow, nil
	}
}

func TestMiddleware_denialIsAProblemThatNamesTheLimits(t *testing.T) {
	d := decided(t, 0, 3, false)
	other := burst(t)
	fine := other.Status(other.Full(0), 0, 3, 0, false)
	fine.Name = "fine"
	d.Limits = append(d.Limits, fine)
	addr := start(t, testConfig(), always(d))

	got := call(t, "GET", "http://"+addr+"/api/resource", "", "X-Request-Id", "abc-1")
	require.Equal(t, 429, got.status)
	assert.Equal(t, map[string]any{
		"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "title": "Quota exceeded",
		"status": 429.0, "detail": "the limit burst is reached: try again in 1 s", "instance": "/api/resource",
		"request_id": "abc-1", "limit": 10.0, "remaining": 0.0, "retry_after_ms": 600.0, "policy": "default",
		"violated-policies": []any{"burst"},
	}, got.problem(t))
}

func TestMiddleware_closedPolicyIs503(t *testing.T) {
	addr := start(t, testConfig(), always(fellBack(t, decision.OutcomeUnavailable)))
	got := call(t, "GET", "http://"+addr+"/api/resource", "")
	assert.Equal(t, 503, got.status)
	p := got.problem(t)
	assert.Equal(t, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity", p["type"])
	assert.NotContains(t, p, "remaining")
}

func TestMiddleware_givesBackWhatThePolicySays(t *testing.T) {
	statuses, err := policy.ParseRefundOn("2xx", "404", "500")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		answer fiber.Handler
		back   bool
	}{
		"200":            {func(c *fiber.Ctx) error { return c.SendString("welcome") }, true},
		"401":            {func(c *fiber.Ctx) error { return c.SendStatus(401) }, false},
		"503":            {func(c *fiber.Ctx) error { return c.SendStatus(503) }, false},
		"an error, 404":  {func(*fiber.Ctx) error { return fiber.ErrNotFound }, true},
		"an error, 401":  {func(*fiber.Ctx) error { return fiber.ErrUnauthorized }, false},
		"another error":  {func(*fiber.Ctx) error { return errors.New("broken") }, true},
		"nothing at all": {func(*fiber.Ctx) error { return nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []policy.Request
			p := &policy.Policy{Name: "login"}
			limiter := limiterFunc(func(req policy.Request) (decision.Decision, error) {
				req.Lookup = nil
				asked = append(asked, req)
				d := decided(t, 9, 1, true)
				d.Cost, d.RefundOn, d.AppliedPolicy = 3, statuses, p
				return d, nil
			})
			app := fiber.New()
			app.Get("/login", httpfiber.RateLimitMiddleware(limiter), c.answer)
			resp, err := app.Test(httptest.NewRequest(http.MethodGet, "/login", http.NoBody))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if !c.back {
				require.Len(t, asked, 1)
				return
			}
			require.Len(t, asked, 2)
			assert.Equal(t, domain.OpUndo, asked[1].Op)
			assert.Equal(t, domain.Tokens(3), asked[1].Cost)
			assert.Same(t, p, asked[1].CallerPolicy)
			assert.False(t, asked[1].PolicyCost)
		})
	}
}

func TestMiddleware_asksForTheRequestAsItCame(t *testing.T) {
	var asked policy.Request
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = req
		asked.Host, asked.Path = strings.Clone(req.Host), strings.Clone(req.Path)
		return decided(t, 9, 1, true), nil
	}))
	got := call(t, "HEAD", "http://"+addr+"/api/resource?x=1", "")
	assert.Equal(t, 200, got.status)
	assert.Empty(t, got.body)
	assert.Equal(t, "9", got.header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, "HEAD", asked.Method, "policies match HEAD as GET")
	assert.Equal(t, "/api/resource", asked.Path)
	assert.Equal(t, addr, asked.Host)
	assert.Equal(t, domain.Tokens(1), asked.Cost)
	assert.Equal(t, "127.0.0.1", asked.Client.String())
}

func TestMiddleware_everySpellingOfThePathIsTheSameResource(t *testing.T) {
	var paths []string
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		paths = append(paths, strings.Clone(req.Path))
		return decided(t, 9, 1, true), nil
	}))
	for target, status := range map[string]int{
		"/api/resource": 200, "/api//resource": 200, "/api/./resource": 200, "/api/%72esource": 200,
		"/x/../api/resource?a=/../b": 200, "http://other/api/resource": 200, "//api/resource": 200,
		"/API/resource": 404, "/api/resource/": 404, "/api/resource%20": 404,
		"/api%2fresource": 400, "/api%5cresource": 400, "/api/resource%00": 400, "/../api/resource": 400,
		"/api/%2572esource": 400, "/api/resource%": 400,
	} {
		got := exchange(t, addr, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n", 1)[0]
		assert.Equal(t, status, got.status, "%s: %s", target, got.body)
		if status != 200 {
			p := got.problem(t)
			assert.True(t, status != 400 || strings.HasPrefix(p["detail"].(string), "path: "), "%s: %s", target, p["detail"])
		}
	}
	assert.Len(t, paths, 7)
	for _, path := range paths {
		assert.Equal(t, "/api/resource", path)
	}
}

// TestMiddleware_pipelinedKeysStayApart sends requests in one segment: Fiber gives each the memory of the one before.
func TestMiddleware_pipelinedKeysStayApart(t *testing.T) {
	k := &keyedBy{header: "x-client-id", allow: decided(t, 9, 1, true)}
	addr := start(t, testConfig(), k.limiter())
	const request = "GET /api/resource HTTP/1.1\r\nHost: x\r\nX-Client-ID: %s\r\n\r\n"
	exchange(t, addr, fmt.Sprintf(request, "alice")+fmt.Sprintf(request, "mallory")+fmt.Sprintf(request, "bob"), 3)
	assert.Equal(t, []string{"alice", "mallory", "bob"}, k.keys)
}

func TestMiddleware_keyHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		key, lines string
		status     int
		want       []string
	}{
		"absent":                       {"x-client-id", "", 200, []string{""}},
		"any case":                     {"x-client-id", "x-CLIENT-id: a\r\n", 200, []string{"a"}},
		"underscore is another header": {"x-client-id", "X_Client_ID: a\r\n", 200, []string{""}},
		"twice":                        {"x-client-id", "X-Client-ID: a\r\nX-Client-ID: a\r\n", 400, nil},
		"twice in two spellings":       {"x-client-id", "X-Client-ID: a\r\nx-client-id: b\r\n", 400, nil},
		"once empty, once not":         {"x-client-id", "X-Client-ID:\r\nX-Client-ID: b\r\n", 400, nil},
		"user agent":                   {"user-agent", "User-Agent: a\r\n", 200, []string{"a"}},
		"user agent twice":             {"user-agent", "User-Agent: a\r\nuser-agent: b\r\n", 400, nil},
		"content type twice":           {"content-type", "Content-Type: a\r\nContent-Type: b\r\n", 400, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := &keyedBy{header: c.key, allow: decided(t, 9, 1, true)}
			addr := start(t, testConfig(), k.limiter())
			got := exchange(t, addr, "GET /api/resource HTTP/1.1\r\nHost: x\r\n"+c.lines+"\r\n", 1)[0]
			assert.Equal(t, c.status, got.status)
			assert.Equal(t, c.want, k.keys)
			if c.status == 400 {
				assert.Contains(t, got.problem(t)["detail"], c.key+": ")
			}
		})
	}
}

func TestMiddleware_errorOfTheLimiterIsNeverAPass(t *testing.T) {
	secret := errors.New("dial tcp 10.1.2.3:6379: refused")
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"unknown":  {secret, 500},
		"store":    {fmt.Errorf("%w: %w", ports.ErrUnavailable, secret), 503},
		"overload": {fmt.Errorf("%w: %w", ports.ErrOverloaded, secret), 503},
		"corrupt":  {fmt.Errorf("%w: %w", ports.ErrCorrupt, secret), 503},
		"take":     {fmt.Errorf("%w: %w", ports.ErrInvalidTake, secret), 422},
		"policy":   {fmt.Errorf("%w: %w", ports.ErrUnknownPolicy, secret), 404},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
				return decision.Decision{}, c.err
			}))
			got := call(t, "GET", "http://"+addr+"/api/resource", "")
			assert.Equal(t, c.status, got.status)
			assert.NotContains(t, got.body, "10.1.2.3")
			assert.Equal(t, c.status == 503, got.header.Get("Retry-After") == "1")
			got.problem(t)
		})
	}
}

func TestMiddleware_inAnotherAppKeepsHeadersWhateverTheHandlerDoes(t *testing.T) {
	limiter := limiterFunc(func(req policy.Request) (decision.Decision, error) {
		if req.Path == "/expensive" {
			return decided(t, 10, 11, false), nil
		}
		return decided(t, 9, 1, true), nil
	})
	app := fiber.New()
	app.Use(recover.New())
	limited := httpfiber.RateLimitMiddleware(limiter)
	app.Get("/fails", limited, func(*fiber.Ctx) error { return fiber.ErrTeapot })
	app.Get("/panics", limited, func(*fiber.Ctx) error { panic("no") })
	app.Get("/clears", limited, func(c *fiber.Ctx) error {
		c.Response().Reset()
		return c.SendStatus(204)
	})
	app.Get("/expensive", limited, func(*fiber.Ctx) error {
		t.Error("called in spite of the denial")
		return nil
	})
	for path, status := range map[string]int{"/fails": 418, "/panics": 500, "/clears": 204, "/expensive": 429} {
		res, err := app.Test(httptest.NewRequest("GET", path, nil))
		require.NoError(t, err)
		assert.Equal(t, status, res.StatusCode, path)
		assert.Equal(t, "10", res.Header.Get("X-RateLimit-Limit"), path)
		assert.NotEmpty(t, field(t, res.Header, "RateLimit"), path)
		require.NoError(t, res.Body.Close())
	}
}

func TestMiddleware_inAnotherAppTakesOptions(t *testing.T) {
	var asked policy.Request
	limiter := limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = req
		asked.Path = strings.Clone(req.Path)
		return decided(t, 9, 1, true), nil
	})
	proxies, err := clientid.ParseProxies([]string{"0.0.0.0"}) // the peer of app.Test
	require.NoError(t, err)
	log, lines := observer.New(zap.WarnLevel)
	for _, c := range []struct {
		options []httpfiber.Option
		client  string
		status  int
		logged  int
	}{
		{nil, "0.0.0.0", 400, 0},
		{[]httpfiber.Option{httpfiber.WithLogger(zap.New(log)), httpfiber.WithPaths(cleanpath.Rules{EncodedSlashes: true})}, "0.0.0.0", 200, 1},
		{[]httpfiber.Option{httpfiber.WithTrustedProxies(proxies), httpfiber.WithPaths(cleanpath.Rules{EncodedSlashes: true})}, "192.0.2.7", 200, 1},
	} {
		app := fiber.New()
		app.Get("/*", httpfiber.RateLimitMiddleware(limiter, c.options...), func(c *fiber.Ctx) error { return c.SendStatus(200) })
		for _, path := range []string{"/a", "/a%2fb"} {
			req := httptest.NewRequest("GET", path, nil)
			req.Header.Set("X-Forwarded-For", "192.0.2.7")
			res, err := app.Test(req)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			if path == "/a" {
				assert.Equal(t, c.client, asked.Client.String())
				continue
			}
			assert.Equal(t, c.status, res.StatusCode)
		}
		assert.Equal(t, c.logged, lines.Len())
	}
}

func TestMiddleware_requestIDs(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	url := "http://" + addr + "/api/resource"
	for _, id := range []string{"a", "A.b_c-9", strings.Repeat("x", 64)} {
		assert.Equal(t, id, call(t, "GET", url, "", "X-Request-Id", id).header.Get("X-Request-Id"))
	}
	made := map[string]bool{}
	for _, id := range []string{"", "a b", "a~b", strings.Repeat("x", 65), "é", "a\tb"} {
		got := call(t, "GET", url, "", "X-Request-Id", id).header.Values("X-Request-Id")
		require.Len(t, got, 1)
		assert.Regexp(t, "^[0-9a-f]{32}$", got[0])
		made[got[0]] = true
	}
	assert.Len(t, made, 6, "ids repeat")
}

func TestResource_saysSomething(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 9, 1, true)))
	got := call(t, "GET", "http://"+addr+"/api/resource", "")
	assert.Equal(t, "application/json", got.header.Get("Content-Type"))
	var body map[string]string
	require.NoError(t, json.Unmarshal([]byte(got.body), &body))
	assert.NotEmpty(t, body["message"])
}
