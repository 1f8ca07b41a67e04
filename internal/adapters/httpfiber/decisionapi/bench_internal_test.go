package decisionapi

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

func BenchmarkParse(b *testing.B) {
	one := []byte(`{"policy":"search","key":"alice","cost":2}`)
	many := []byte(`{"checks":[` + strings.Repeat(`{"key":"a"},{"policy":"login","key":"b","cost":2},`, 50) + `{"key":"z"}]}`)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := parseCheck(one, domain.OpTake)
			require.NoError(b, err)
		}
	})
	b.Run("101", func(b *testing.B) {
		var dst []check
		var err error
		b.ReportAllocs()
		for b.Loop() {
			dst, err = parseChecks(dst[:0], many)
			require.NoError(b, err)
		}
	})
}

// resultByLibrary has the members of a result, for the comparison with appendResult.
type resultByLibrary struct {
	Allowed bool   `json:"allowed"`
	Policy  string `json:"policy"`
	level
	Mode   string           `json:"mode"`
	Store  string           `json:"store"`
	Limits []limitByLibrary `json:"limits"`
}

type limitByLibrary struct {
	Name    string `json:"name"`
	Allowed bool   `json:"allowed"`
	level
}

type level struct {
	Limit        domain.Tokens  `json:"limit"`
	Remaining    *domain.Tokens `json:"remaining,omitzero"`
	RetryAfterMS int64          `json:"retry_after_ms"`
	ResetAfterMS *int64         `json:"reset_after_ms,omitzero"`
}

// BenchmarkResult shows what writing a result by hand saves, beside what the whole handler takes.
func BenchmarkResult(b *testing.B) {
	d := decision.Decision{
		Outcome: decision.OutcomeAllowed, Policy: "default", Store: decision.StoreMemory, LevelKnown: true,
		Limits: []domain.LimitStatus{{Name: "burst", Allowed: true, Capacity: 10, Remaining: 9, ResetAfter: time.Second}},
	}
	byLibrary := func() []byte {
		s := d.Constraining()
		reset := problem.Millis(s.ResetAfter)
		l := level{s.Capacity, &s.Remaining, problem.Millis(s.RetryAfter), &reset}
		body, err := json.Marshal(&resultByLibrary{
			Allowed: true, Policy: d.Policy, level: l, Mode: "enforce", Store: string(d.Store),
			Limits: []limitByLibrary{{Name: s.Name, Allowed: true, level: l}},
		})
		require.NoError(b, err)
		return body
	}
	dst := appendResult(nil, domain.OpTake, &d)
	require.Equal(b, string(byLibrary()), string(dst))
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = appendResult(dst[:0], domain.OpTake, &d)
		}
	})
	b.Run("by library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			byLibrary()
		}
	})

	app := fiber.New()
	Mount(app, fixed{decision: d}, nil, bearer.New("secret"), clientid.Proxies{})
	handle := app.Handler()
	var ctx fasthttp.RequestCtx
	ctx.Request.SetRequestURI("/v1/check")
	ctx.Request.Header.SetMethod("POST")
	ctx.Request.Header.SetContentType("application/json")
	ctx.Request.Header.Set("Authorization", "Bearer secret")
	ctx.Request.SetBodyString(`{"policy":"search","key":"alice","cost":2}`)
	b.Run("handler", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ctx.Response.Reset()
			handle(&ctx)
		}
		require.Equal(b, 200, ctx.Response.StatusCode())
	})
}

// fixed answers every request alike.
type fixed struct {
	ports.Limiter
	decision decision.Decision
}

func (f fixed) Decide(context.Context, policy.Request) (decision.Decision, error) {
	return f.decision, nil
}
