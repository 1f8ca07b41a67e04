package test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// adminCommand runs a command against p's admin plane, requires its exit code, and returns what it prints.
func adminCommand(t *testing.T, p *harness.Process, code int, args ...string) string {
	t.Helper()
	vars := harness.Settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.Admin, "http://"), "VELOCITY_ADMIN_TOKEN": "secret"}
	got, stdout, stderr := command(t, vars, args...)
	require.Equal(t, code, got, "%s%s", stdout, stderr)
	return stdout + stderr
}

func TestAdminClients_inspectAndResetOneClient(t *testing.T) {
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2", "VELOCITY_ADMIN_TOKEN": "secret",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_TAKE_TIMEOUT": "5s",
	})
	for range 5 {
		p.Resource("X-Client-ID: a/b c")
	}
	p.Resource() // without a key: by its address

	top := adminCommand(t, p, 0, "top")
	assert.Contains(t, top, "default: 6 requests, 3 denials\n")
	assert.Regexp(t, `(?m)^  CLIENT  DENIALS\n  a/b c   3$`, top)
	assert.Contains(t, adminCommand(t, p, 0, "top", "-by", "requests"), "127.0.0.1 (by address: it had no key)  1\n")

	inspected := adminCommand(t, p, 0, "inspect", "a/b c")
	assert.Contains(t, inspected, "a/b c under default, by header:x-client-id, in redis\n")
	assert.Regexp(t, `default  1/h   0[.0-9]* +2 +1h59m`, inspected)
	assert.Contains(t, adminCommand(t, p, 0, "inspect", "-source", "ip", "127.0.0.1"), "by ip, in redis")

	assert.Contains(t, adminCommand(t, p, 2, "reset", "a/b c"), "there is no terminal to ask at: say -yes")
	assert.Equal(t, "Reset: nothing is spent of the limits of a/b c under default, by header:x-client-id.\n", adminCommand(t, p, 0, "reset", "-yes", "a/b c"))
	full := adminCommand(t, p, 0, "inspect", "a/b c")
	assert.Regexp(t, `default  1/h   2 +2 +full`, full)
	assert.Contains(t, full, "Nothing is spent: this client was not seen, or its buckets are full again, its quotas' periods have ended, and it holds no permit.\n")
	assert.Contains(t, full, "A client that had no header:x-client-id counts by its address: -source ip\n")
	assert.NotContains(t, inspected, "Nothing is spent")
	assert.Contains(t, adminCommand(t, p, 0, "reset", "-yes", "127.0.0.1"), "counts by its address: -source ip\n", "it reset nothing")
	assert.NotContains(t, adminCommand(t, p, 0, "reset", "-yes", "-source", "ip", "127.0.0.1"), "Nothing is spent")

	status := adminCommand(t, p, 0, "status")
	assert.Contains(t, status, "ready, version v0.0.0-test\n")
	assert.Regexp(t, `(?m)^shard-0  up     closed   0        [01]          0         <= `, status) // its last batch may be ending
	assert.Regexp(t, `(?m)^default  allowed  redis       3$`, status)
	p.Stop()
}

func TestAdminClients_printJSON(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	p.Resource()
	for args, member := range map[string]string{
		"status -json": "decisions", "top -json": "policies", "inspect -json 127.0.0.1": "limits",
		"reset -json -yes 127.0.0.1": "reset",
	} {
		var body map[string]any
		require.NoError(t, json.Unmarshal([]byte(adminCommand(t, p, 0, strings.Fields(args)...)), &body), args)
		assert.Contains(t, body, member, args)
	}
	p.Stop()
}

func TestAdminClients_sayWhatIsWrong(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	for args, want := range map[string]string{
		"inspect -policy other alice":        "velocity: -policy: \"other\": there is no policy of this name: the service has default\n",
		"reset -yes -policy other alice":     "velocity: -policy: \"other\": there is no policy of this name: the service has default\n",
		"top -n 1000":                        "velocity: n: must be from 1 to 100\n",
		"top -policy nonsense":               "velocity: -policy: \"nonsense\": there is no policy of this name: the service has default\n",
		"top -json -policy nonsense":         "velocity: -policy: \"nonsense\": there is no policy of this name: the service has default\n",
		"inspect [2001:db8::9]":              "velocity: key: \"[2001:db8::9]\": must be the address without brackets\n",
		"reset -yes [2001:db8::9]":           "velocity: key: \"[2001:db8::9]\": must be the address without brackets\n",
		"inspect -source header:x-y -json a": "velocity: source: \"header:x-y\": must be one of the policy's keys: ip\n",
	} {
		assert.Equal(t, want, adminCommand(t, p, 1, strings.Fields(args)...), args)
	}
	assert.Contains(t, adminCommand(t, p, 0, "top", "-policy", "default"), "There were no requests.\n")
	for args, want := range map[string]string{
		"inspect":              "one client must be named; under a key of global, any word names it",
		"inspect a b":          "one client must be named",
		"top -by fame":         `-by: "fame": must be denials or requests`,
		"top -every -1s":       "-every: -1s: must not be negative",
		"status now":           `unknown argument "now"`,
		"status -addr ftp://x": "must be host:port or an http URL",
	} {
		assert.Contains(t, adminCommand(t, p, 2, strings.Fields(args)...), want, args)
	}
	code, _, stderr := command(t, harness.Settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.Admin, "http://")}, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "set VELOCITY_ADMIN_TOKEN")
	addr := strings.TrimPrefix(p.Admin, "http://")
	p.Stop()
	code, _, stderr = command(t, harness.Settings{"VELOCITY_ADMIN_ADDR": addr}, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "nothing listens at http://"+addr+": the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR")
}

func TestAdminClients_duringAnOutage(t *testing.T) {
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{"REDIS_ADDR": server.Addr, "VELOCITY_ADMIN_TOKEN": "secret"})
	server.Stop()
	assert.Equal(t, "velocity: the store does not answer; nothing was changed\n", adminCommand(t, p, 1, "inspect", "192.0.2.7"))
	assert.Contains(t, adminCommand(t, p, 1, "reset", "-yes", "192.0.2.7"), "may or may not have been carried out")
	p.Stop()
}

func TestAdminClients_limitsWithAKeyOfTheirOwn(t *testing.T) {
	policies := harness.WriteFile(t, "policies.yaml", "policies:\n- name: default\n  key: header:X-Client-ID\n  limits:\n"+
		"  - { name: burst, rate: 1/h, capacity: 5 }\n  - { name: tenant, rate: 1/h, capacity: 9, key: header:X-Tenant }\n")
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": policies, "VELOCITY_ADMIN_TOKEN": "secret"})
	p.Resource("X-Client-ID: alice", "X-Tenant: acme")
	assert.Regexp(t, `(?m)^tenant +1/h +8[.0-9]* +9 `, adminCommand(t, p, 0, "inspect", "-source", "header:x-tenant", "acme"))
	for _, name := range []string{"inspect", "reset"} {
		assert.Contains(t, adminCommand(t, p, 0, "help", name), "-source header:x-tenant")
	}
	p.Stop()
}

func TestAdminClients_quotas(t *testing.T) {
	policies := harness.WriteFile(t, "policies.yaml", "policies:\n- name: default\n  limits:\n"+
		"  - { name: burst, rate: 1/h, capacity: 5 }\n  - { name: yearly, quota: 9/year, zone: Europe/Berlin }\n")
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": policies, "VELOCITY_ADMIN_TOKEN": "secret"})
	p.Resource()
	inspected := adminCommand(t, p, 0, "inspect", "127.0.0.1")
	assert.Regexp(t, `(?m)^burst +1/h +4[.0-9]* +5 `, inspected)
	assert.Regexp(t, `(?m)^yearly +9/year in Europe/Berlin +1 +9 +20\d\d-12-31T23:00:00Z +20\d\d-12-31T23:00:00Z +\d+h`, inspected)
	adminCommand(t, p, 0, "reset", "-yes", "127.0.0.1")
	inspected = adminCommand(t, p, 0, "inspect", "127.0.0.1")
	assert.Regexp(t, `(?m)^yearly +9/year in Europe/Berlin +0 +9 `, inspected)
	assert.Contains(t, inspected, "Nothing is spent: ")
	p.Stop()
}

// A key of Velocity that holds a value of another type is repaired by a reset.
func TestAdminClients_resetRepairsAForeignValue(t *testing.T) {
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2", "VELOCITY_ADMIN_TOKEN": "secret",
		"VELOCITY_TAKE_TIMEOUT": "5s", "VELOCITY_ON_STORE_FAILURE": "closed",
	})
	require.Equal(t, 200, p.Resource().Status)
	shard := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer func() { _ = shard.Close() }()
	require.NoError(t, shard.SetXX(t.Context(), "velocity:{default:ip=127.0.0.1}", "foreign", 0).Err())
	require.Equal(t, 503, p.Resource().Status)
	assert.Contains(t, adminCommand(t, p, 1, "inspect", "127.0.0.1"), "cannot be read; a reset replaces it")
	assert.Equal(t, "Reset: nothing is spent of the limits of 127.0.0.1 under default.\n", adminCommand(t, p, 0, "reset", "-yes", "127.0.0.1"))
	assert.Equal(t, "1", p.Resource().Header.Get("X-RateLimit-Remaining"))
	p.Stop()
}
