package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

const overriddenPolicies = `
shared:
  - { name: tenant, key: header:X-Tenant, quota: 1000/year }
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: burst, rate: 1/h, capacity: 2 }
      - { name: yearly, quota: 100/year, cost: 1 }
      - { use: tenant }
    block: ["banned-*"]
`

// passed returns how many of n requests of a client pass.
func passed(p *harness.Process, n int, client string) (allowed int) {
	for range n {
		if p.Resource("X-Client-ID: "+client, "X-Tenant: "+client).Status == http.StatusOK {
			allowed++
		}
	}
	return allowed
}

func TestOverrides_ofTheCommands(t *testing.T) {
	overStores(t, overriddenPolicies, overridesOfTheCommands)
}

func overridesOfTheCommands(t *testing.T, p *harness.Process) {
	assert.Equal(t, 2, passed(p, 3, "alice"))
	got := adminCommand(t, p, 0, "override", "set", "-limit", "name: burst, rate: 1/h, capacity: 5", "-note", "ticket 123", "alice")
	assert.Contains(t, got, "Set: alice under default: burst: rate 1/h, capacity 5; note: ticket 123\n")
	assert.Contains(t, adminCommand(t, p, 0, "inspect", "alice"), "\noverride: burst: rate 1/h, capacity 5; note: ticket 123\n")
	adminCommand(t, p, 0, "reset", "-yes", "alice")
	assert.Equal(t, 5, passed(p, 7, "alice"))
	assert.Equal(t, 2, passed(p, 3, "bob"))

	adminCommand(t, p, 0, "override", "set", "-exempt", "banned-1")
	assert.Equal(t, 9, passed(p, 9, "banned-1"), "it wins over the file's block")
	adminCommand(t, p, 0, "override", "set", "-block", "bob")
	assert.Zero(t, passed(p, 3, "bob"))
	assert.Regexp(t, `(?m)^POLICY +CLIENT +OVERRIDE.*\ndefault +alice +burst: rate 1/h, capacity 5 +- +ticket 123 .*\ndefault +banned-1 +exempt .*\ndefault +bob +blocked `,
		adminCommand(t, p, 0, "override", "list"))

	adminCommand(t, p, 0, "override", "set", "-policy", "shared/tenant", "-limit", "name: tenant, quota: 3/year", "-expires", "1h", "acme")
	assert.Regexp(t, `^acme under shared/tenant: tenant: quota 3/year; until 20`, adminCommand(t, p, 0, "override", "get", "-policy", "shared/tenant", "acme"))
	for args, want := range map[string]string{
		"set -limit name:other,cost:1 x":              "other",
		"set -limit name:burst,quota:1/d x":           "period",
		"set -exempt -policy nothing x":               "there is no policy of this name: the service has default, shared/tenant",
		"get nothing":                                 "this client has no override",
		"set -exempt -expires 2020-01-01T00:00:00Z x": "expires_at: has passed",
	} {
		code := 1
		if strings.Contains(args, "1/d") {
			code = 2
		}
		assert.Contains(t, adminCommand(t, p, code, append([]string{"override"}, strings.Fields(args)...)...), want, args)
	}
	assert.InDelta(t, 4, p.Metric("velocity_overrides"), 0)

	file := filepath.Join(t.TempDir(), "overrides.jsonl")
	exported := adminCommand(t, p, 0, "override", "export")
	assert.Equal(t, 4, strings.Count(exported, "\n"))
	require.NoError(t, os.WriteFile(file, []byte(exported), 0o600))
	for _, client := range []string{"alice", "banned-1", "bob"} {
		assert.Equal(t, "Ended: "+client+" has the limits of default again.\n", adminCommand(t, p, 0, "override", "delete", client))
	}
	assert.Zero(t, passed(p, 2, "banned-1"))
	assert.Equal(t, "Set 4 overrides.\n", adminCommand(t, p, 0, "override", "apply", file))
	assert.Equal(t, exported, adminCommand(t, p, 0, "override", "export"))
	assert.Equal(t, 2, passed(p, 2, "banned-1"))

	var audited []map[string]any
	require.Eventually(t, func() bool {
		audited = p.LogLines("Audit")
		return len(audited) >= 12
	}, harness.Timeout, harness.Interval, "the log is written within a second")
	require.Len(t, audited, 12)
	first, id := audited[0], audited[0]["requestID"]
	assert.Regexp(t, `^127\.0\.0\.1:\d+$`, first["peer"])
	assert.Regexp(t, `^[0-9a-f]{32}$`, id)
	for member, want := range map[string]any{"action": "set_override", "policy": "default", "key": "alice", "actor": "loopback"} {
		assert.Equal(t, want, first[member], member)
	}
	assert.NotContains(t, first, "before")
	assert.Equal(t, "ticket 123", first["after"].(map[string]any)["note"])
	assert.Equal(t, "reset", audited[1]["action"])
	assert.Equal(t, "burst", audited[1]["before"].([]any)[0].(map[string]any)["name"])
	assert.Equal(t, "end_override", audited[5]["action"])
	assert.Equal(t, first["after"], audited[5]["before"])
}

// An override set at one node is in force at the other within a second.
func TestOverrides_areInForceAtEveryNode(t *testing.T) {
	server := redistest.Start(t)
	settings := harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", overriddenPolicies),
		"VELOCITY_TAKE_TIMEOUT": "5s",
	}
	one, two := harness.Start(t, settings), harness.Start(t, settings)
	seen := func(p *harness.Process, overrides int) {
		t.Helper()
		assert.Eventually(t, func() bool { return p.Metric("velocity_overrides") == float64(overrides) }, 20*time.Second, 20*time.Millisecond)
	}
	for i := range 5 {
		client := fmt.Sprint("client-", i)
		adminCommand(t, one, 0, "override", "set", "-block", client)
		assert.Zero(t, passed(one, 1, client), "at once where it was set")
		seen(two, i+1)
		assert.Zero(t, passed(two, 1, client))
	}
	adminCommand(t, two, 0, "override", "delete", "client-0")
	seen(one, 4)
	assert.Equal(t, 1, passed(one, 1, "client-0"), "nothing was taken while it was blocked")
	assert.Equal(t, 4, strings.Count(adminCommand(t, two, 0, "override", "export"), "\n"))
	again := harness.Start(t, settings)
	seen(again, 4)
}

// TestOverrides_recipe runs the commands of the recipe for one customer, in their order.
func TestOverrides_recipe(t *testing.T) {
	text, err := os.ReadFile("../docs/recipes.md")
	require.NoError(t, err)
	_, recipe, found := strings.Cut(string(text), "## An agreement of one customer\n")
	require.True(t, found)
	recipe, _, _ = strings.Cut(recipe, "\n## ")
	var p *harness.Process
	file := filepath.Join(t.TempDir(), "agreements.jsonl")
	printed := map[string]string{}
	for _, block := range fence.FindAllStringSubmatch(recipe, -1) {
		if block[1] == "yaml" {
			p = harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "plans.yaml", block[2])})
			continue
		}
		for line := range strings.Lines(block[2]) {
			command, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "velocity "), "  #")
			command, redirected := strings.CutSuffix(command, " > agreements.jsonl")
			out := adminCommand(t, p, 0, words(strings.Replace(command, "agreements.jsonl", file, 1))...)
			if printed[strings.TrimSpace(command)] = out; redirected {
				require.NoError(t, os.WriteFile(file, []byte(out), 0o600))
			}
		}
	}
	assert.Regexp(t, `(?m)^acme +monthly: quota 50000/month +- +contract 4711 `, printed["override list -policy api"])
	inspected := printed["inspect -policy api acme"]
	assert.Contains(t, inspected, "\noverride: monthly: quota 50000/month; note: contract 4711\n")
	assert.Contains(t, inspected, "50000/month in Europe/Berlin", "the zone stays")
	assert.Equal(t, "Set 2 overrides.\n", printed["override apply agreements.jsonl"])
	assert.Contains(t, adminCommand(t, p, 1, "override", "get", "-policy", "api", "initech"), "this client has no override")
}
