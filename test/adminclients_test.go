package test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// operate runs a client of p's admin plane and returns what it prints. Its exit code must be this one.
func operate(t *testing.T, p *process, code int, args ...string) string {
	t.Helper()
	vars := settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.admin, "http://"), "VELOCITY_ADMIN_TOKEN": "secret"}
	got, stdout, stderr := command(t, vars, args...)
	require.Equal(t, code, got, "%s%s", stdout, stderr)
	return stdout + stderr
}

func TestAdminClients_showAndLiftOneClientsLimit(t *testing.T) {
	server := redistest.Start(t)
	p := start(t, settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2", "VELOCITY_ADMIN_TOKEN": "secret",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_TAKE_TIMEOUT": "5s",
	})
	for range 5 {
		p.resource("X-Client-ID: a/b c")
	}
	p.resource() // without a key: by its address

	top := operate(t, p, 0, "top")
	assert.Contains(t, top, "default: 6 requests, 3 denials\n")
	assert.Regexp(t, `(?m)^  CLIENT  DENIALS\n  a/b c   3$`, top)
	assert.Contains(t, operate(t, p, 0, "top", "-by", "requests"), "127.0.0.1 (by address: it had no key)  1\n")

	inspected := operate(t, p, 0, "inspect", "a/b c")
	assert.Contains(t, inspected, "a/b c under default, by header:x-client-id, in redis\n")
	assert.Regexp(t, `default  1/h   0[.0-9]* +2 +1h59m`, inspected)
	assert.Contains(t, operate(t, p, 0, "inspect", "-source", "ip", "127.0.0.1"), "by ip, in redis")

	assert.Contains(t, operate(t, p, 2, "reset", "a/b c"), "there is no terminal to ask at: say -yes")
	assert.Equal(t, "Reset: every bucket of a/b c under default, by header:x-client-id, is full.\n", operate(t, p, 0, "reset", "-yes", "a/b c"))
	full := operate(t, p, 0, "inspect", "a/b c")
	assert.Regexp(t, `default  1/h   2 +2 +full`, full)
	assert.Contains(t, full, "No token is missing: this client was not seen, or its buckets are full again.\n")
	assert.Contains(t, full, "A client that had no header:x-client-id counts by its address: -source ip\n")
	assert.NotContains(t, inspected, "No token is missing")
	assert.Contains(t, operate(t, p, 0, "reset", "-yes", "127.0.0.1"), "counts by its address: -source ip\n", "it lifted nothing")
	assert.NotContains(t, operate(t, p, 0, "reset", "-yes", "-source", "ip", "127.0.0.1"), "No token is missing")

	status := operate(t, p, 0, "status")
	assert.Contains(t, status, "ready, version v0.0.0-test\n")
	assert.Regexp(t, `(?m)^shard-0  up     closed   0        [01]          0         <= `, status) // its last batch may be ending
	assert.Regexp(t, `(?m)^default  allowed  redis       3$`, status)
	p.stop()
}

func TestAdminClients_printJSON(t *testing.T) {
	p := start(t, settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	p.resource()
	for args, member := range map[string]string{
		"status -json": "decisions", "top -json": "policies", "inspect -json 127.0.0.1": "limits",
		"reset -json -yes 127.0.0.1": "reset",
	} {
		var body map[string]any
		require.NoError(t, json.Unmarshal([]byte(operate(t, p, 0, strings.Fields(args)...)), &body), args)
		assert.Contains(t, body, member, args)
	}
	p.stop()
}

func TestAdminClients_sayWhatIsWrong(t *testing.T) {
	p := start(t, settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	for args, want := range map[string]string{
		"inspect -policy other alice":        "api: -policy: \"other\": there is no policy of this name: there are default\n",
		"reset -yes -policy other alice":     "api: -policy: \"other\": there is no policy of this name: there are default\n",
		"top -n 1000":                        "api: n: must be from 1 to 100\n",
		"inspect -source header:x-y -json a": "api: source: \"header:x-y\": must be one of the policy's keys: ip\n",
	} {
		assert.Equal(t, want, operate(t, p, 1, strings.Fields(args)...), args)
	}
	for args, want := range map[string]string{
		"inspect":              "one client must be named",
		"inspect a b":          "one client must be named",
		"top -by fame":         `-by: "fame": must be denials or requests`,
		"top -every -1s":       "-every: -1s: must not be negative",
		"status now":           `unknown argument "now"`,
		"status -addr ftp://x": "must be host:port or an http URL",
	} {
		assert.Contains(t, operate(t, p, 2, strings.Fields(args)...), want, args)
	}
	code, _, stderr := command(t, settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.admin, "http://")}, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "set VELOCITY_ADMIN_TOKEN")
	addr := strings.TrimPrefix(p.admin, "http://")
	p.stop()
	code, _, stderr = command(t, settings{"VELOCITY_ADMIN_ADDR": addr}, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "nobody listens at http://"+addr+": the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR")
}
