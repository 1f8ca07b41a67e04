package clientid

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
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
		assert.NotEqual(t, !got.IsValid(), clientkey.ClientAddress(got) != "")
	})
}

// FuzzParseProxies trusts what a setting names, and says of everything else what is wrong.
func FuzzParseProxies(f *testing.F) {
	for _, seed := range []string{"", "loopback", "private, 203.0.113.0/24", "::ffff:10.0.0.0/104", "10.0.0.1", "fe80::1%eth0", "/", "0.0.0.0/0", "::/0,x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		entries := strings.Split(list, ",")
		proxies, err := ParseProxies(entries)
		if err != nil {
			assert.ErrorContains(t, err, "TRUSTED_PROXIES")
			return
		}
		for _, entry := range entries {
			if addr, err := netip.ParseAddr(strings.TrimSpace(entry)); err == nil {
				assert.True(t, proxies.Trusts(Plain(addr)), entry)
			}
		}
		named := bytes.ContainsAny([]byte(list), "0123456789abcdefghijklmnopqrstuvwxyz:")
		assert.False(t, !named && proxies.Trusts(netip.MustParseAddr("203.0.113.7")), "nothing is named")
	})
}
