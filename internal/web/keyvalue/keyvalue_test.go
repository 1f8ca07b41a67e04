package keyvalue_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// header is a header with one field of some lines.
type header []string

func (h header) Values(string) (string, int) {
	if len(h) == 0 {
		return "", 0
	}
	return h[0], len(h)
}

func (h header) Cookies(name string) (string, int) { return h.Values(name) }

func TestFinder_queries(t *testing.T) {
	for query, want := range map[string]string{
		"": "", "k=a": "a", "x=1&k=a&y": "a", "k=a+b%20c": "a b c", "%6b=a": "a", "k": "", "K=a": "", "k=%": "%", "k=%zz%41": "%zzA",
		"k=a;k=b": "a;k=b", "&&k=a&&": "a", "k=a=b": "a=b",
	} {
		var f keyvalue.Finder
		f.Reset(header(nil), query)
		got, err := f.Lookup(clientkey.Source{Kind: clientkey.SourceQuery, Name: "k"})
		require.NoError(t, err, query)
		assert.Equal(t, want, got, query)
	}
}

func TestFinder_whatIsSentTwiceIsRefused(t *testing.T) {
	for _, source := range []clientkey.Source{
		{Kind: clientkey.SourceHeader, Name: "k"}, {Kind: clientkey.SourceCookie, Name: "k"}, {Kind: clientkey.SourceQuery, Name: "k"},
	} {
		var f keyvalue.Finder
		f.Reset(header{"a", "a"}, "k=a&%6b=a")
		_, err := f.Lookup(source)
		assert.ErrorIs(t, err, problem.ErrMalformed)
		f.Reset(header{"b"}, "k=b")
		got, err := f.Lookup(source)
		require.NoError(t, err)
		assert.Equal(t, "b", got, "of the next request")
	}
}

// TestFinder_findsTheSameAgain: a trailer may have come since.
func TestFinder_findsTheSameAgain(t *testing.T) {
	var f keyvalue.Finder
	h := header{"a"}
	f.Reset(&h, "")
	source := clientkey.Source{Kind: clientkey.SourceHeader, Name: "k"}
	_, _ = f.Lookup(source)
	h = header{"b", "c"}
	got, err := f.Lookup(source)
	require.NoError(t, err)
	assert.Equal(t, "a", got)
}

// tokens verifies each header as the claims that it holds.
type tokens struct {
	claims   func(keyvalue.Header) keyvalue.Claims
	verified int
}

func (t *tokens) Claims(h keyvalue.Header) keyvalue.Claims {
	t.verified++
	return t.claims(h)
}

type claims map[string][]string

func (c claims) Text(name string) string {
	if len(c[name]) == 1 {
		return c[name][0]
	}
	return ""
}

func (c claims) Elements(name string) []string { return c[name] }

func TestFinder_verifiesTheTokenOnceAndOnlyForClaims(t *testing.T) {
	verifier := &tokens{claims: func(keyvalue.Header) keyvalue.Claims { return claims{"sub": {"alice"}, "roles": {"a", "b"}} }}
	sub, roles := clientkey.Source{Kind: clientkey.SourceClaim, Name: "sub"}, clientkey.Source{Kind: clientkey.SourceClaim, Name: "roles"}
	f := keyvalue.Finder{Tokens: verifier}
	f.Reset(header{"a"}, "")
	_, err := f.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: "k"})
	require.NoError(t, err)
	assert.Nil(t, f.Elements(clientkey.Source{Kind: clientkey.SourceHeader, Name: "roles"}))
	assert.Zero(t, verifier.verified, "no claim was asked for")
	for range 2 {
		got, err := f.Lookup(sub)
		require.NoError(t, err)
		assert.Equal(t, "alice", got)
		assert.Equal(t, []string{"a", "b"}, f.Elements(roles))
	}
	assert.Equal(t, 1, verifier.verified)

	verifier.claims = func(keyvalue.Header) keyvalue.Claims { return nil }
	f.Reset(header{"b"}, "")
	for range 2 {
		got, err := f.Lookup(sub)
		require.NoError(t, err)
		assert.Empty(t, got, "of the next request, whose token is rejected")
		assert.Nil(t, f.Elements(roles))
	}
	assert.Equal(t, 2, verifier.verified, "a token that is rejected is verified and counted once, too")

	var without keyvalue.Finder
	without.Reset(header{"a"}, "")
	got, err := without.Lookup(sub)
	require.NoError(t, err)
	assert.Empty(t, got)
	assert.Nil(t, without.Elements(roles))
}
