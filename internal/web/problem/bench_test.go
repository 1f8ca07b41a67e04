package problem

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// denialByLibrary has the members of a 429, for the comparison with appendDenial.
type denialByLibrary struct {
	Type         string        `json:"type"`
	Title        string        `json:"title"`
	Status       int           `json:"status"`
	Detail       string        `json:"detail"`
	Instance     string        `json:"instance"`
	RequestID    string        `json:"request_id"`
	Limit        domain.Tokens `json:"limit"`
	Remaining    domain.Tokens `json:"remaining"`
	RetryAfterMS int64         `json:"retry_after_ms"`
	Policy       string        `json:"policy"`
	Violated     []string      `json:"violated-policies"`
}

// BenchmarkDenial shows what writing a 429 by hand saves.
func BenchmarkDenial(b *testing.B) {
	d := decision.Decision{
		Outcome: decision.OutcomeDenied, Policy: "default", LevelKnown: true,
		Limits: []domain.LimitStatus{{Name: "burst", Capacity: 10, RetryAfter: time.Second, ResetAfter: 2 * time.Second}},
	}
	const id, path = "0123456789abcdef0123456789abcdef", "/api/resource"
	byLibrary := func() []byte {
		most := d.Constraining()
		body, err := json.Marshal(&denialByLibrary{
			Type: typeQuotaExceeded, Title: "Quota exceeded", Status: 429, Detail: "the limit burst is reached: try again in 1 s",
			Instance: path, RequestID: id, Limit: most.Capacity, Remaining: most.Remaining, RetryAfterMS: Millis(most.RetryAfter),
			Policy: d.Policy, Violated: []string{most.Name},
		})
		require.NoError(b, err)
		return body
	}
	p := Denied(&d)
	dst := make([]byte, 0, 1024)
	require.Equal(b, string(byLibrary()), string(p.AppendJSON(dst, id, path, -1)))
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = p.AppendJSON(dst[:0], id, path, -1)
		}
	})
	b.Run("by library", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			byLibrary()
		}
	})
}
