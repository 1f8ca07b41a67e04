package decisionapi

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// FuzzCheckBody holds the strict reader against encoding/json: what it takes, that takes too, with the same meaning.
func FuzzCheckBody(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"key":"a"}`, `{"key":"a","cost":-1,"policy":"x"}`, `{"key":"a","attributes":{"header:x":"y","ip":"::1"}}`,
		`{"key":"\u0061","key":1}`, `[[[[`, `{"cost":1e9}`, `{"cost":9223372036854775808}`, "{\"key\":\"\xff\"}", `{"checks":[{}]}`, `{"":1}`,
		`{"key":"a","taken_at_us":1700000000000000}`, `{"taken_at_us":-1,"taken_at_us":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		original := bytes.Clone(body)
		got, err := parseCheck(body, domain.OpCharge)
		assert.Equal(t, original, body, "the body is read only")
		if err != nil {
			var input *problem.InputError
			require.ErrorAs(t, err, &input)
			assert.NotEmpty(t, input.Field)
			return
		}
		var want struct {
			Policy     *string
			Key        string
			Cost       *int64
			TakenAt    int64 `json:"taken_at_us"`
			Attributes map[string]string
		}
		require.NoError(t, json.Unmarshal(body, &want))
		assert.Equal(t, want.Key, got.key)
		policy, cost := policy.DefaultName, int64(1)
		if want.Policy != nil {
			policy = *want.Policy
		}
		if want.Cost != nil {
			cost = *want.Cost
		}
		assert.Equal(t, policy, got.policy)
		assert.Equal(t, domain.Tokens(cost), got.cost)
		assert.Equal(t, domain.Instant(want.TakenAt), got.takenAt)
		assert.LessOrEqual(t, len(got.attributes), len(want.Attributes))
	})
}

func FuzzChecksBody(f *testing.F) {
	for _, seed := range []string{
		`{"checks":[]}`, `{"checks":[{"key":"a"},{"key":"b","cost":0}]}`, `{"checks":[{]}`, `{"checks":[1`,
		`{"checks":[1,{"key":"a","key":"b"},[[]],{"x":{"y":[1]}},{"key":"a"}]}`, "{\"checks\":[{\"key\":\"\xff\"},{\"attributes\":{\"a\":\"\"}}]}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseChecks(nil, body)
		if err != nil {
			require.ErrorAs(t, err, new(*problem.InputError))
			return
		}
		var want struct{ Checks []json.RawMessage }
		require.NoError(t, json.Unmarshal(body, &want))
		require.Len(t, got, len(want.Checks))
		for i := range got {
			alone, err := parseCheck(want.Checks[i], domain.OpTake)
			assert.Equal(t, err == nil, got[i].invalid == nil, "%s", want.Checks[i])
			if err == nil {
				assert.Equal(t, alone, got[i])
			}
		}
	})
}
