package clientkey_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

var (
	byIP     = clientkey.Source{Kind: clientkey.SourceIP}
	byTenant = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}
)

// isPolicyError reports whether err is a FieldError about this field of a policy.
func isPolicyError(err error, field string) bool {
	var e *domain.FieldError
	return errors.As(err, &e) && errors.Is(e, domain.ErrInvalidPolicy) && e.Field == field
}

func TestParseSource(t *testing.T) {
	cases := map[string]clientkey.Source{
		"ip":                                 byIP,
		"header:X-Tenant":                    byTenant,
		"header:a":                           {Kind: clientkey.SourceHeader, Name: "a"},
		"header:9-":                          {Kind: clientkey.SourceHeader, Name: "9-"},
		"ip/48":                              {Kind: clientkey.SourceIP48},
		"cookie:__Host-sid":                  {Kind: clientkey.SourceCookie, Name: "__Host-sid"},
		"query:filter[id]":                   {Kind: clientkey.SourceQuery, Name: "filter[id]"},
		"query:API_key.v2~":                  {Kind: clientkey.SourceQuery, Name: "API_key.v2~"},
		"global":                             {Kind: clientkey.SourceGlobal},
		"descriptor":                         {Kind: clientkey.SourceDescriptor},
		"header:" + strings.Repeat("Z", 128): {Kind: clientkey.SourceHeader, Name: strings.Repeat("z", 128)},
	}
	for in, want := range cases {
		got, err := clientkey.ParseSource(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got)
		again, err := clientkey.ParseSource(got.String())
		require.NoError(t, err)
		assert.Equal(t, got, again)
	}
}

func TestParseKeySource_refusesAnythingElse(t *testing.T) {
	for _, in := range []string{
		"", "IP", "ip ", "ip:", "ip:1", "ip/64", "ip/48x", "header", "header:", "Header:x", "cookie:", "cookie:a=b", "query:", "query:a&b",
		"query:a%20b", "cookie:{a}", "global:x", "globals", "g", "d", "descriptor:a", "header:x_tenant", "header:x tenant",
		"header:x:y", "header:x=y", "header:{x}", "header:x\n", "header:é", "header:x[", "header:x@", "header:" + strings.Repeat("z", 129),
	} {
		_, err := clientkey.ParseSource(in)
		assert.True(t, isPolicyError(err, "key"), "%q: %v", in, err)
	}
}

func TestNewBucketKey(t *testing.T) {
	cases := []struct {
		source clientkey.Source
		value  string
		want   clientkey.BucketKey
	}{
		{byIP, "192.0.2.1", "search:ip=192.0.2.1"},
		{byTenant, "acme", "search:h:x-tenant=acme"},
		{byTenant, "", "search:h:x-tenant="},
		{byTenant, "a b é", "search:h:x-tenant=a b é"},
		{byIP, "2001:db8::/64", "search:ip=2001%3Adb8%3A%3A/64"},
		{byTenant, "{}:=&%", "search:h:x-tenant=%7B%7D%3A%3D%26%25"},
		{byTenant, "\x00\n\x1f\x7f", "search:h:x-tenant=%00%0A%1F%7F"},
		{byTenant, strings.Repeat("a", 256), "search:h:x-tenant=" + clientkey.BucketKey(strings.Repeat("a", 256))},
		// echo -n aaa... (257 times) | sha256sum
		{byTenant, strings.Repeat("a", 257), "search:h:x-tenant=%sha256-e8d95cc2b4bc198c54b40bd214df958afb65f5e73d2c2eafe0593cf5c635c1f0"},
	}
	for _, c := range cases {
		assert.Equal(t, c.want, clientkey.NewBucketKey("search", c.source, c.value))
	}
}

func TestNewBucketKey_hostileValuesStayApart(t *testing.T) {
	long := strings.Repeat("x", 4096)
	values := []string{
		"", " ", "a", "A", "a ", "a\n", "a\r\n", "\na", "a%0A", "a%0a", "a%250A", "{a}", "}a{", "%7Ba%7D", "a:b", "a=b", "a&b", "a/b",
		"ip=a", ":ip=a", "é", "e\u0301", "\xff", "\xfe", "\u0000", "%00", "a\x00b", "a\x7fb", "\u2028", "日本", "../a", "*", "[a]",
		long, long + "x", long[:4095] + "y", long[:256], long[:257],
		string(clientkey.NewBucketKey("", byIP, long))[len(":ip="):], // looks like what a hashed value becomes
	}
	seen := map[clientkey.BucketKey]string{}
	for _, value := range values {
		for _, source := range []clientkey.Source{byIP, byTenant, {Kind: clientkey.SourceHeader, Name: "ip"}, {Kind: clientkey.SourceHeader, Name: "h"}} {
			for _, policy := range []string{"default", "default2", "h", "ip"} {
				key := clientkey.NewBucketKey(policy, source, value)
				who := policy + " " + source.String() + " " + value
				other, twice := seen[key]
				require.False(t, twice, "%q and %q share %q", who, other, key)
				seen[key] = who
				requireSafeKey(t, key)
			}
		}
	}
}

func requireSafeKey(t *testing.T, key clientkey.BucketKey) {
	t.Helper()
	require.False(t, strings.ContainsAny(string(key), "{}\x7f"), "%q", key)
	require.False(t, strings.ContainsFunc(string(key), func(r rune) bool { return r < ' ' }), "%q", key)
	require.LessOrEqual(t, len(key), 63+1+2+128+1+3*256)
}

func TestClientAddress(t *testing.T) {
	cases := map[string]string{
		"192.0.2.1":             "192.0.2.1",
		"::ffff:192.0.2.1":      "192.0.2.1",
		"::ffff:192.0.2.1%eth0": "192.0.2.1",
		"::ffff:c000:201":       "192.0.2.1",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"2001:DB8:1:2:ffff::":   "2001:db8:1:2::/64",
		"2001:db8:1:3::":        "2001:db8:1:3::/64",
		"fe80::1%eth0":          "fe80::/64",
		"fe80::2%eth1":          "fe80::/64",
		"::1":                   "::/64",
		"64:ff9b::192.0.2.1":    "64:ff9b::/64",
		"0.0.0.0":               "0.0.0.0",
	}
	for in, want := range cases {
		assert.Equal(t, want, clientkey.ClientAddress(netip.MustParseAddr(in)), in)
		assert.Equal(t, want, clientkey.NormalizeAddress(in), in)
		assert.Equal(t, want, clientkey.NormalizeAddress(want), "what was normalised stays as it is")
		assert.True(t, clientkey.Source{}.ValidAddress(want), want)
	}
	assert.Empty(t, clientkey.ClientAddress(netip.Addr{}))
}

func TestNormalizeAddress_takesWhatIsNoAddressAsItIs(t *testing.T) {
	for _, in := range []string{"", "alice", "192.0.2", "192.0.2.1:80", "[::1]", "192.0.2.01", " 192.0.2.1", "::1::"} {
		assert.Equal(t, in, clientkey.NormalizeAddress(in))
		assert.False(t, clientkey.Source{}.ValidAddress(in), in)
	}
}
