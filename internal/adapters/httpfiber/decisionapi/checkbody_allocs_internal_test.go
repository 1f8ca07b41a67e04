//go:build !race

package decisionapi

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
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
	require.Equal(t, check{policy: "login", key: "b", cost: 2, given: givenFields{policy: true, key: true, cost: true}}, checks[1])
	for _, c := range checks {
		req := c.request(domain.OpTake, "", "")
		_, err := req.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: "x"})
		require.ErrorIs(t, err, domain.ErrNoValue)
	}
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		parse()
		for i := range checks {
			_ = checks[i].request(domain.OpTake, "", "")
		}
	}), 1.0)
}
