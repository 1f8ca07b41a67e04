package accesslog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// FuzzLogs reads any text: nothing panics, every line is counted, time never goes back, and a second reading has the same
// result.
func FuzzLogs(f *testing.F) {
	for _, seed := range []string{
		"", "\n\n", at(0, "/a"), at(0, `/\x22\"`) + ` "-" "x"` + "\n" + at(-5, "/b"), caddyWithHeaders,
		`{"time_iso8601":"2026-10-10T14:00:00+02:00","remote_addr":"::1","request":"GET / HTTP/1.1","http_x_a":"b"}`,
		"\x1f\x8b\x08", `{"request":{"headers":{"A":["b`, `{"ts":1e9,"msec":-1,"request":"\u0000"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, stats := outcome(t, text)
		again, statsAgain := outcome(t, text)
		assert.Equal(t, first, again)
		assert.Equal(t, stats, statsAgain)
		assert.Equal(t, stats.Lines, stats.Requests+stats.Malformed+stats.Refused)
	})
}

// outcome reads any text, even a broken archive.
func outcome(t *testing.T, text string) (requests []string, stats accesslog.Stats) {
	l, err := accesslog.Open([]string{accesslog.Stdin}, strings.NewReader(text), plainConfig)
	if err != nil {
		return []string{err.Error()}, stats
	}
	defer func() { require.NoError(t, l.Close()) }()
	last := domain.Instant(-1 << 62)
	for {
		r, err := l.Next()
		if err != nil {
			return append(requests, err.Error()), l.Stats()
		}
		require.GreaterOrEqual(t, r.At, last)
		last = r.At
		requests = append(requests, described(r))
	}
}

func described(r *ports.LoggedRequest) string {
	agent, err := r.Request.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: "user-agent"})
	return fmt.Sprint(copied(r), agent, err)
}
