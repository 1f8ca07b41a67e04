package httpfiber_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
)

func TestClient_isWhomTheNearestTrustedProxySaw(t *testing.T) {
	trusted := []string{"loopback", "10.0.0.0/8", "2001:db8:ffff::/48"}
	for name, c := range map[string]struct {
		trusted []string
		lines   []string
		want    string
	}{
		"no header":                  {trusted, nil, "127.0.0.1"},
		"untrusted peer":             {nil, []string{"203.0.113.7"}, "127.0.0.1"},
		"one entry":                  {trusted, []string{"203.0.113.7"}, "203.0.113.7"},
		"forged entry on the left":   {trusted, []string{"198.51.100.1, 203.0.113.7"}, "203.0.113.7"},
		"through two proxies":        {trusted, []string{"198.51.100.1, 203.0.113.7, 10.1.1.1"}, "203.0.113.7"},
		"several lines":              {trusted, []string{"198.51.100.1", "203.0.113.7", "10.1.1.1"}, "203.0.113.7"},
		"forged second line":         {trusted, []string{"203.0.113.7, 198.51.100.1", "192.0.2.9,10.1.1.1"}, "192.0.2.9"},
		"only proxies":               {trusted, []string{"10.2.2.2, 10.1.1.1"}, "10.2.2.2"},
		"garbage at the right":       {trusted, []string{"203.0.113.7, unknown"}, "127.0.0.1"},
		"garbage behind a proxy":     {trusted, []string{"203.0.113.7, <script>, 10.1.1.1"}, "127.0.0.1"},
		"garbage left of the client": {trusted, []string{"<script>, 203.0.113.7"}, "203.0.113.7"},
		"empty":                      {trusted, []string{""}, "127.0.0.1"},
		"ends with a comma":          {trusted, []string{"203.0.113.7,"}, "127.0.0.1"},
		"with port":                  {trusted, []string{"203.0.113.7:4711"}, "203.0.113.7"},
		"IPv6":                       {trusted, []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv6 in brackets":           {trusted, []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv6 with port":             {trusted, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		"IPv6 with zone":             {trusted, []string{"fe80::1%eth0"}, "fe80::1"},
		"mapped IPv4":                {trusted, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		"mapped proxy":               {trusted, []string{"203.0.113.7, ::ffff:10.1.1.1"}, "203.0.113.7"},
		"trusted IPv6 proxy":         {trusted, []string{"203.0.113.7, 2001:db8:ffff::1"}, "203.0.113.7"},
		"trusted by mapped prefix":   {[]string{"::ffff:127.0.0.0/104"}, []string{"203.0.113.7"}, "203.0.113.7"},
		"spaces and tabs":            {trusted, []string{" 198.51.100.1 ,\t203.0.113.7\t"}, "203.0.113.7"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked netip.Addr
			cfg := testConfig()
			cfg.TrustedProxies = c.trusted
			addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
				asked = req.Client
				return decided(t, 9, 1, true), nil
			}))
			raw := "GET /api/resource HTTP/1.1\r\nHost: x\r\nX-Real-IP: 192.0.2.66\r\nForwarded: for=192.0.2.66\r\n"
			for _, line := range c.lines {
				raw += "X-Forwarded-For: " + line + "\r\n"
			}
			exchange(t, addr, raw+"\r\n", 1)
			assert.Equal(t, c.want, asked.String())
		})
	}
}

func TestClient_forwardedForInTrailersIsRefused(t *testing.T) {
	cfg := testConfig()
	cfg.TrustedProxies = []string{"loopback"}
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	got := exchange(t, addr, "GET /api/resource HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"0\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n", 1)[0]
	assert.Equal(t, 400, got.status)
}

func TestClient_ignoredHeaderIsLoggedOnce(t *testing.T) {
	core, logged := observer.New(zapcore.WarnLevel)
	_, addr := startServer(t, testConfig(), always(decided(t, 9, 1, true)), zap.New(core))
	for range 3 {
		call(t, "GET", "http://"+addr+"/api/resource", "", "X-Forwarded-For", "203.0.113.7")
	}
	lines := logged.FilterMessageSnippet("VELOCITY_TRUSTED_PROXIES").All()
	require.Len(t, lines, 1)
	assert.Equal(t, "127.0.0.1", lines[0].ContextMap()["peer"])
}

func TestParseProxies_words(t *testing.T) {
	p, err := clientid.ParseProxies([]string{" private ", "", "loopback", "203.0.113.7", "2001:db8::/32"})
	require.NoError(t, err)
	for addr, want := range map[string]bool{
		"10.1.1.1": true, "172.16.0.1": true, "172.32.0.1": false, "192.168.9.9": true, "fd00::1": true,
		"127.9.9.9": true, "::1": true, "203.0.113.7": true, "203.0.113.8": false, "2001:db8::5": true, "8.8.8.8": false,
	} {
		assert.Equal(t, want, p.Trusts(netip.MustParseAddr(addr)), addr)
	}
	assert.False(t, clientid.Proxies{}.Trusts(netip.MustParseAddr("127.0.0.1")))
}

func TestParseProxies_reportsEveryBadEntry(t *testing.T) {
	_, err := clientid.ParseProxies([]string{"10.0.0.0/33", "loopback", "localhost", "10.0.0.1-9"})
	require.Error(t, err)
	for _, entry := range []string{`"10.0.0.0/33"`, `"localhost"`, `"10.0.0.1-9"`} {
		assert.Contains(t, err.Error(), "TRUSTED_PROXIES: "+entry)
	}
}

// The limiter says that a header which decides limits came from a peer that is not trusted.
func TestClient_ignoredHeaderOfLimitsIsLoggedOnce(t *testing.T) {
	core, logged := observer.New(zapcore.WarnLevel)
	d := decided(t, 9, 1, true)
	d.IgnoredHeader = "x-plan"
	_, addr := startServer(t, testConfig(), always(d), zap.New(core))
	for range 3 {
		call(t, "GET", "http://"+addr+"/api/resource", "", "X-Plan", "pro")
	}
	lines := logged.FilterMessageSnippet("VELOCITY_TRUSTED_PROXIES").All()
	require.Len(t, lines, 1)
	assert.Equal(t, map[string]any{"header": "x-plan", "peer": "127.0.0.1"}, lines[0].ContextMap())
}

// The caller of the decision API says what its client may have. Costs are those of the body all the same.
func TestDecisionAPI_isBelievedInConditions(t *testing.T) {
	var asked policy.Request
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = req
		return decided(t, 9, 1, true), nil
	}))
	for _, route := range []string{"check", "refund", "charge"} {
		body := `{"key":"a","attributes":{"header:x-plan":"pro","claim:scope":"write"}}`
		got := call(t, "POST", "http://"+addr+"/v1/"+route, body, "Content-Type", "application/json")
		require.Equal(t, 200, got.status, got.body)
		assert.True(t, asked.Trusted, route)
		assert.False(t, asked.PolicyCost, route)
		for source, want := range map[string]string{"header:x-plan": "pro", "claim:scope": "write"} {
			s, err := clientkey.ParseSource(source)
			require.NoError(t, err)
			value, err := asked.Lookup(s)
			require.NoError(t, err)
			assert.Equal(t, want, value)
		}
	}
}
