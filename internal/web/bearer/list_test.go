package bearer_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
)

// nameOf is the name of a token, and whether it is right.
func nameOf(tokens *bearer.Tokens, token string) (string, bool) {
	name, err := tokens.Check([][]byte{[]byte("Bearer " + token)})
	return name, err == nil
}

func TestTokens_allLinesAreValid(t *testing.T) {
	tokens := bearer.New("alice:first\r\n\nalice:second\nci.deploy-1:a:b\nalone\n")
	for token, want := range map[string]string{"first": "alice", "second": "alice", "a:b": "ci.deploy-1", "alone": "token"} {
		name, right := nameOf(tokens, token)
		assert.True(t, right, token)
		assert.Equal(t, want, name, token)
	}
	for _, token := range []string{"alice:first", "alice", "alone\n", "", "third"} {
		_, right := nameOf(tokens, token)
		assert.False(t, right, token)
	}
}

func TestTokens_replaceEndsTheEarlierOnes(t *testing.T) {
	tokens := bearer.New("alice:old")
	require.NoError(t, tokens.Replace("alice:old\nalice:new"))
	for _, token := range []string{"old", "new"} {
		_, right := nameOf(tokens, token)
		assert.True(t, right, token)
	}
	require.NoError(t, tokens.Replace("alice:new"))
	_, right := nameOf(tokens, "old")
	assert.False(t, right)

	require.Error(t, tokens.Replace("alice:"), "nothing changes")
	require.Error(t, tokens.Replace(""))
	_, right = nameOf(tokens, "new")
	assert.True(t, right)
}

func TestTokens_noneIsSet(t *testing.T) {
	assert.False(t, bearer.New("").Set())
	assert.True(t, bearer.New("a").Set())
	wrong := bearer.New("alice:")
	assert.True(t, wrong.Set(), "a list that is not valid must not open the API")
	for _, token := range []string{"", "alice:", "\x00"} {
		_, right := nameOf(wrong, token)
		assert.False(t, right)
	}
}

func TestValidate_saysWhichLineIsWrongAndShowsNone(t *testing.T) {
	many := secret.Secret(strings.Repeat("hunter2\n", 65))
	for list, want := range map[secret.Secret]string{
		"hunter 2":                     "must be of visible ASCII",
		"alice:hunter\t2":              "must be of visible ASCII",
		"alice:hunter2\n :hunter3":     "line 2: what is before the first colon is the token's name",
		":hunter2":                     "what is before the first colon",
		"alice:hunter2\n\nbob:hunter2": "line 3: an earlier line has this token under another name",
		"alice:hunter2\nbob:":          "line 2: has a name without a token",
		"hunter2\nhunt\u00e9r":         "line 2: must be of visible ASCII",
		"\n\n":                         "has no token",
		many:                           "has more than 64 tokens",
	} {
		err := bearer.Validate(list)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunt")
	}
	for _, list := range []secret.Secret{"", "a", "a:b", "a:b\na:c\na:b", "a:b:c"} {
		assert.NoError(t, bearer.Validate(list))
	}
}

func TestSingle_isOneTokenWhateverItHolds(t *testing.T) {
	for _, token := range []string{"a", "a:b", "token:a"} {
		tokens := bearer.New(bearer.Single(secret.Secret(token)))
		name, right := nameOf(tokens, token)
		assert.True(t, right, token)
		assert.Equal(t, "token", name)
	}
	first, err := bearer.First("alice:new\nalice:old")
	require.NoError(t, err)
	assert.Equal(t, "new", string(first))
	_, err = bearer.First("")
	assert.Error(t, err)
}
