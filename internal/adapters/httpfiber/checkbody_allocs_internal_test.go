//go:build !race

package httpfiber

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestParseChecks_copiesTheBodyOnce(t *testing.T) {
	body := []byte(`{"checks":[{"key":"a"},{"policy":"login","key":"b","cost":2},{"key":"c"},{"key":"d"}]}`)
	var checks []check
	parse := func() {
		var err error
		checks, err = parseChecks(checks[:0], body)
		require.NoError(t, err)
	}
	parse()
	require.Equal(t, check{policy: "login", key: "b", keyGiven: true, cost: 2}, checks[1])
	for _, c := range checks {
		req := c.request(domain.OpTake, "")
		_, err := req.Lookup(domain.KeySource{Kind: domain.SourceHeader, Name: "x"})
		require.ErrorIs(t, err, domain.ErrNoValue)
	}
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		parse()
		for i := range checks {
			_ = checks[i].request(domain.OpTake, "")
		}
	}), 1.0)
}
