package accesslog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// looked returns the values of sources of keys in a log of one line.
func looked(t *testing.T, line string, sources ...string) (values []string, err error) {
	t.Helper()
	l, err := accesslog.Open([]string{accesslog.Stdin}, strings.NewReader(line), plainConfig)
	require.NoError(t, err)
	n := 0
	each(t, l, func(r *ports.LoggedRequest) {
		n++
		for _, s := range sources {
			source, parseErr := clientkey.ParseSource(s)
			require.NoError(t, parseErr)
			var value string
			value, err = r.Request.Lookup(source)
			values = append(values, strings.Clone(value))
		}
	})
	require.NoError(t, l.Close())
	require.Equal(t, 1, n, "%+v", l.Stats())
	return values, err
}

const caddyWithHeaders = `{"ts":1,"request":{"client_ip":"192.0.2.1","method":"GET","uri":"/?q=a","headers":{"Accept":["*/*"],` +
	`"X-Client-Id":["al\u0069ce"],"X-Twice":["a","b"],"X-None":[],"X-Odd":"text","User-Agent":["x \"y\""]}},"status":200}`

func TestLookup_headers(t *testing.T) {
	t.Parallel()
	values, err := looked(t, caddyWithHeaders,
		"header:x-client-id", "header:X-Client-ID", "header:user-agent", "header:x-none", "header:x-odd", "header:missing")
	require.NoError(t, err)
	assert.Equal(t, []string{"alice", "alice", `x "y"`, "", "", ""}, values)

	values, err = looked(t, `{"msec":1,"remote_addr":"192.0.2.1","request":"GET / HTTP/1.1","http_x_client_id":"alice","http_x_none":"-"}`,
		"header:x-client-id", "header:x-none", "header:missing")
	require.NoError(t, err)
	assert.Equal(t, []string{"alice", "", ""}, values)

	values, err = looked(t, at(0, "/")+` "https://example.com/" "curl \"8\""`, "header:referer", "header:user-agent", "header:x-client-id")
	require.NoError(t, err)
	assert.Equal(t, []string{"https://example.com/", `curl "8"`, ""}, values)
	values, err = looked(t, at(0, "/")+` "-" "-"`, "header:referer", "header:user-agent")
	require.NoError(t, err)
	assert.Equal(t, []string{"", ""}, values)
}

func TestLookup_aKeySentTwiceIsRefused(t *testing.T) {
	t.Parallel()
	_, err := looked(t, caddyWithHeaders, "header:x-twice")
	require.ErrorContains(t, err, "twice")
	const line = `{"msec":1,"remote_addr":"192.0.2.1","request":"GET /?a=1&b=2&%61=1 HTTP/1.1","http_cookie":"c=1; d=2;c=1"}`
	for _, source := range []string{"query:a", "cookie:c"} {
		_, err = looked(t, line, source)
		assert.ErrorContains(t, err, "twice", source)
	}
	values, err := looked(t, line, "query:b", "cookie:d")
	require.NoError(t, err)
	assert.Equal(t, []string{"2", "2"}, values)
}

func TestLookup_cookiesAndParameters(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"nginx": `{"msec":1,"remote_addr":"192.0.2.1","request":"GET /?a=b%20c+d&api_key=k%3D1&%78=y&p=5%&q=%zz%41 HTTP/1.1",` +
			`"http_cookie":"x=1; sid=s=1;","cookie_own":"o"}`,
		"Caddy": `{"ts":1,"request":{"client_ip":"192.0.2.1","method":"GET","uri":"/?a=b%20c+d&api_key=k%3D1&%78=y&p=5%&q=%zz%41",` +
			`"headers":{"Cookie":["x=1; sid=s=1;own=\"o\""]}},"status":200}`,
		"nginx, the query apart": `{"msec":1,"remote_addr":"192.0.2.1","request_method":"GET","uri":"/",` +
			`"args":"a=b%20c+d&api_key=k%3D1&%78=y&p=5%&q=%zz%41","cookie_sid":"s=1","cookie_own":"o"}`,
	} {
		values, err := looked(t, line, "query:api_key", "query:a", "query:x", "query:none", "query:p", "query:q", "cookie:sid", "cookie:own", "cookie:si")
		require.NoError(t, err, name)
		assert.Equal(t, []string{"k=1", "b c d", "y", "", "5%", "%zzA", "s=1", "o", ""}, values, name)
	}
}
