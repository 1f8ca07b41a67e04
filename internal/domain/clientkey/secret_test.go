package clientkey_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

const secret = "0123456789abcdef0123456789abcdef"

func hasherOf(t testing.TB, secret string) *clientkey.Hasher {
	t.Helper()
	h, err := clientkey.NewHasher([]byte(secret))
	require.NoError(t, err)
	return h
}

// secretSource is the header x-api-key, whose values are secrets.
func secretSource(t testing.TB) clientkey.Source {
	return clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-api-key", Hasher: hasherOf(t, secret)}
}

// aliceHMAC was computed by: printf %s alice | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
const aliceHMAC = "hmac:433deb45467e4e53dbaba594c88bc3a200f705a2150788c3d11e6040e63e8510"

func TestHash_isTheHMACOfTheValue(t *testing.T) {
	h := hasherOf(t, secret)
	assert.Equal(t, aliceHMAC, h.Hash("alice"))
	assert.Equal(t, aliceHMAC, h.Hash("alice"), "of a mac that was used before")
	assert.NotEqual(t, aliceHMAC, h.Hash("alice "))
	assert.NotEqual(t, aliceHMAC, hasherOf(t, secret+"x").Hash("alice"))
	long := strings.Repeat("k", 10_000)
	assert.NotEqual(t, h.Hash(long), h.Hash(long+"k"), "no part of a long value is left out")
}

func TestNewHasher_refusesAShortSecretWithoutShowingIt(t *testing.T) {
	_, err := clientkey.NewHasher([]byte("hunter2-hunter2"))
	require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	assert.EqualError(t, err, "secret: 15 bytes: must have at least 16 bytes, as random as those of openssl rand -hex 32")
}

func TestNewHasher_copiesTheSecret(t *testing.T) {
	text := []byte(secret)
	h, err := clientkey.NewHasher(text)
	require.NoError(t, err)
	clear(text)
	assert.Equal(t, aliceHMAC, h.Hash("alice"))
}

func TestDigest_differsBySecretAndIsNoHMACOfAValue(t *testing.T) {
	h := hasherOf(t, secret)
	assert.Equal(t, hasherOf(t, secret).Digest(), h.Digest())
	assert.NotEqual(t, hasherOf(t, secret+"x").Digest(), h.Digest())
	assert.Len(t, h.Digest(), 8)
	for _, text := range []string{"digest", "velocity: digest of the secret of keys"} {
		assert.NotContains(t, h.Hash(text), h.Digest())
	}
}

func TestHash_byManyGoroutines(t *testing.T) {
	h := hasherOf(t, secret)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 1000 {
				assert.Equal(t, aliceHMAC, h.Hash("alice"))
				h.Hash(fmt.Sprint(i))
			}
		})
	}
	group.Wait()
}

func TestListed(t *testing.T) {
	for value, want := range map[string]bool{
		aliceHMAC: true, "": false, "hmac:": false, "alice": false, aliceHMAC[:68]: false, aliceHMAC + "0": false,
		strings.ToUpper(aliceHMAC): false, "hmac:" + strings.Repeat("g", 64): false, "hmac;" + strings.Repeat("0", 64): false,
	} {
		assert.Equal(t, want, clientkey.Listed(value), value)
	}
}

func TestNewPart_hashesWhateverTheValueLooksLike(t *testing.T) {
	source := secretSource(t)
	assert.Equal(t, aliceHMAC, clientkey.NewPart(source, "alice").Value)
	assert.NotEqual(t, aliceHMAC, clientkey.NewPart(source, aliceHMAC).Value, "who sends the HMAC of a key is not its client")
	assert.Equal(t, clientkey.Part{Source: byIP, Value: "alice"}, clientkey.NewPart(byIP, "alice"))
}

func TestListedPart_takesTheValueAndTheHMAC(t *testing.T) {
	source := secretSource(t)
	assert.Equal(t, aliceHMAC, clientkey.ListedPart(source, "alice").Value)
	assert.Equal(t, aliceHMAC, clientkey.ListedPart(source, aliceHMAC).Value)
	assert.NotEqual(t, "hmac:bob", clientkey.ListedPart(source, "hmac:bob").Value, "this is no HMAC, and so a value")
	assert.Equal(t, aliceHMAC, clientkey.ListedPart(source.Public(), aliceHMAC).Value)
}

func TestRawListValue_isWhatPatternsAreComparedWith(t *testing.T) {
	source := secretSource(t)
	raw, known := clientkey.RawListValue([]clientkey.Part{clientkey.NewPart(source, "a&b")})
	assert.Equal(t, "a&b", raw)
	assert.True(t, known)
	raw, known = clientkey.RawListValue([]clientkey.Part{clientkey.NewPart(source, "a&b"), clientkey.NewPart(byIP, "192.0.2.1")})
	assert.Equal(t, "a%26b&192.0.2.1", raw)
	assert.True(t, known)
	_, known = clientkey.RawListValue([]clientkey.Part{clientkey.NewPart(byIP, "192.0.2.1"), clientkey.ListedPart(source, aliceHMAC)})
	assert.False(t, known)
}

func TestNewBucketKey_ofASecret(t *testing.T) {
	source := secretSource(t)
	for name, c := range map[string]struct {
		parts []clientkey.Part
		want  clientkey.BucketKey
	}{
		"one source": {[]clientkey.Part{clientkey.NewPart(source, "alice")}, "search:h:x-api-key=" + aliceHMAC},
		"two sources": {
			[]clientkey.Part{clientkey.NewPart(source, "alice"), {Source: byIP, Value: "192.0.2.1"}},
			"search:h:x-api-key=" + aliceHMAC + "&ip=192.0.2.1",
		},
	} {
		assert.Equal(t, c.want, clientkey.NewListBucketKey("search", c.parts), name)
	}
	public := clientkey.NewBucketKey("search", source.Public(), aliceHMAC)
	assert.NotEqual(t, clientkey.NewBucketKey("search", source, aliceHMAC), public, "a value that looks like an HMAC is another client")
}

func TestKey_checkSecrets(t *testing.T) {
	h := hasherOf(t, secret)
	for name, c := range map[string]struct {
		key  clientkey.Key
		want string
	}{
		"header":     {clientkey.Key{secretSource(t)}, ""},
		"claim":      {clientkey.Key{{Kind: clientkey.SourceClaim, Name: "sub", Hasher: h}}, ""},
		"address":    {clientkey.Key{{Hasher: h}}, `key: "ip": cannot be secret: only header:NAME, cookie:NAME, query:NAME and claim:NAME can`},
		"global":     {clientkey.Key{{Kind: clientkey.SourceGlobal, Hasher: h}}, `key: "global": cannot be secret: only header:NAME, cookie:NAME, query:NAME and claim:NAME can`},
		"both forms": {clientkey.Key{secretSource(t), secretSource(t).Public()}, `key: "header:x-api-key, header:x-api-key": has header:x-api-key twice`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.key.Check(); c.want == "" {
				assert.Nil(t, err)
			} else if assert.NotNil(t, err) {
				assert.EqualError(t, err, c.want)
			}
		})
	}
	assert.True(t, clientkey.Key{secretSource(t)}.Equal(clientkey.Key{secretSource(t).Public()}))
}

func BenchmarkHash(b *testing.B) {
	h := hasherOf(b, secret)
	b.ReportAllocs()
	for b.Loop() {
		h.Hash("sk_live_4eC39HqLyjWDarjtT1zdp7dc")
	}
}
