package clientkey_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

func FuzzParseKeySource(f *testing.F) {
	for _, seed := range []string{"ip", "header:X-Tenant", "header:", "header:x=y", "header:x:y", "header:{x}", "IP", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		source, err := clientkey.ParseSource(in)
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidPolicy)
			return
		}
		again, err := clientkey.ParseSource(source.String())
		require.NoError(t, err)
		require.Equal(t, source, again)
		requireSafeKey(t, clientkey.NewBucketKey("default", source, in))
	})
}

func FuzzNewBucketKey(f *testing.F) {
	hashed := string(clientkey.NewBucketKey("", byIP, string(make([]byte, 300))))
	f.Add("default", "ip", "a", "default", "header:ip", "a")
	f.Add("default", "header:a", "b", "default", "header:a-b", "")
	f.Add("a", "ip", "{b}", "a", "ip", "%7Bb%7D")
	f.Add("a", "ip", "x:ip=y", "a", "header:x", "ip=y")
	f.Add("a", "ip", string(make([]byte, 300)), "a", "ip", hashed[len(":ip="):])
	f.Fuzz(func(t *testing.T, policy1, source1, value1, policy2, source2, value2 string) {
		s1, err1 := clientkey.ParseSource(source1)
		s2, err2 := clientkey.ParseSource(source2)
		if err1 != nil || err2 != nil || !domain.ValidName(policy1) || !domain.ValidName(policy2) {
			return
		}
		k1, k2 := clientkey.NewBucketKey(policy1, s1, value1), clientkey.NewBucketKey(policy2, s2, value2)
		requireSafeKey(t, k1)
		requireSafeKey(t, k2)
		same := policy1 == policy2 && s1 == s2 && value1 == value2
		require.Equal(t, same, k1 == k2, "%q %q", k1, k2)
	})
}

func TestNewBucketKey_allocatesTheKeyAlone(t *testing.T) {
	source := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		_ = clientkey.NewBucketKey("default", source, "client-000042")
	}), 1.0)
}

func BenchmarkNewBucketKey(b *testing.B) {
	source := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}
	b.ReportAllocs()
	for b.Loop() {
		_ = clientkey.NewBucketKey("default", source, "client-000042")
	}
}
