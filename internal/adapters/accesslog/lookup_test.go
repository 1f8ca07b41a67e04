package accesslog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// looked is what the only line of a log has for sources of keys.
func looked(t *testing.T, line string, sources ...string) (values []string, err error) {
	t.Helper()
	l, err := accesslog.Open([]string{accesslog.Stdin}, strings.NewReader(line), plainConfig)
	require.NoError(t, err)
	n := 0
	each(t, l, func(r *ports.LoggedRequest) {
		n++
		for _, s := range sources {
			source, parseErr := domain.ParseKeySource(s)
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

func TestLookup_aHeaderThatWasSentTwiceIsRefusedAsTheDoorsDo(t *testing.T) {
	t.Parallel()
	_, err := looked(t, caddyWithHeaders, "header:x-twice")
	assert.ErrorContains(t, err, "twice")
}
