package httpfiber

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// FuzzForwardedClient compares the walk with the rule, written the plain way: join the lines, cut at commas, go from
// the right.
func FuzzForwardedClient(f *testing.F) {
	for _, seed := range []string{
		"", ",", "203.0.113.7", "203.0.113.7, 10.0.0.1", "x, 10.0.0.1\n203.0.113.7", "[::1]:1,::ffff:10.0.0.1",
		"fe80::1%eth0", "10.0.0.1\n10.0.0.2,10.0.0.3", "1.2.3.4:5,", "[10.0.0.1]",
	} {
		f.Add(seed)
	}
	proxies, err := ParseProxies([]string{"private"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, joined string) {
		lines := bytes.Split([]byte(joined), []byte("\n"))
		got := proxies.forwardedClient(lines)

		entries := strings.Split(strings.ReplaceAll(joined, "\n", ","), ",")
		var want netip.Addr
		for i := len(entries) - 1; i >= 0; i-- {
			want = parseForwarded(entries[i])
			if !want.IsValid() || !proxies.Trusts(want) {
				break
			}
		}
		assert.Equal(t, want, got)
		assert.False(t, got.Is4In6() || got.Zone() != "", "the address is in its plain form")
		assert.NotEqual(t, !got.IsValid(), domain.ClientAddress(got) != "")
	})
}

// FuzzCheckBody holds the strict reader against encoding/json: what it takes, that takes too, with the same meaning.
func FuzzCheckBody(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"key":"a"}`, `{"key":"a","cost":-1,"policy":"x"}`, `{"key":"a","attributes":{"header:x":"y","ip":"::1"}}`,
		`{"key":"\u0061","key":1}`, `[[[[`, `{"cost":1e9}`, `{"cost":9223372036854775808}`, "{\"key\":\"\xff\"}", `{"checks":[{}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		original := bytes.Clone(body)
		got, err := parseCheck(body)
		assert.Equal(t, original, body, "the body is read only")
		if err != nil {
			var input *inputError
			require.ErrorAs(t, err, &input)
			assert.NotEmpty(t, input.field)
			return
		}
		var want struct {
			Policy     *string
			Key        string
			Cost       *int64
			Attributes map[string]string
		}
		require.NoError(t, json.Unmarshal(body, &want))
		assert.Equal(t, want.Key, got.key)
		policy, cost := domain.DefaultPolicyName, int64(1)
		if want.Policy != nil {
			policy = *want.Policy
		}
		if want.Cost != nil {
			cost = *want.Cost
		}
		assert.Equal(t, policy, got.policy)
		assert.Equal(t, domain.Tokens(cost), got.cost)
		assert.LessOrEqual(t, len(got.attributes.values), len(want.Attributes))
	})
}

func FuzzChecksBody(f *testing.F) {
	for _, seed := range []string{`{"checks":[]}`, `{"checks":[{"key":"a"},{"key":"b","cost":0}]}`, `{"checks":[{]}`, `{"checks":[1`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseChecks(nil, body)
		if err != nil {
			require.ErrorAs(t, err, new(*inputError))
			return
		}
		var want struct{ Checks []struct{ Key string } }
		require.NoError(t, json.Unmarshal(body, &want))
		require.Len(t, got, len(want.Checks))
		for i := range got {
			assert.Equal(t, want.Checks[i].Key, got[i].key)
		}
	})
}

func FuzzRequestID(f *testing.F) {
	for _, seed := range []string{"", "a", "a b", "a\r\nX: y", strings.Repeat("x", 64), strings.Repeat("x", 65), "é"} {
		f.Add([]byte(seed))
	}
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	f.Fuzz(func(t *testing.T, id []byte) {
		want := len(id) >= 1 && len(id) <= 64 && strings.Trim(string(id), allowed) == "" &&
			!bytes.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
		assert.Equal(t, want, validRequestID(id))
	})
}

// FuzzProblem shows that no path and no text makes an answer that is not JSON, or that a browser could take for markup.
func FuzzProblem(f *testing.F) {
	f.Add("/api/resource", "key: must not be empty")
	f.Add("/<script>\xff\"", "\x00\"\\")
	f.Add("/%", `"`)
	f.Add("*", `\`)
	f.Fuzz(func(t *testing.T, path, detail string) {
		p := problem{status: 400, detail: detail}
		var got map[string]any
		require.NoError(t, json.Unmarshal(p.appendJSON(nil, "id", path, 3), &got))
		assert.NotContains(t, got["instance"], "<")
		assert.NotContains(t, got["instance"], `"`)
	})
}
