package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// The files of envoyproxy/ratelimit are followed as the policy file is, and buckets keep what was taken.
func TestEnvoy_changedFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	publish := func(text string) {
		next := filepath.Join(dir, ".next")
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, filepath.Join(dir, "rules.yaml")))
	}
	perYear := func(n int) string {
		return fmt.Sprintf("{domain: edge, descriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: %d}}]}\n", n)
	}
	publish(perYear(2))
	p, e := startEnvoyService(t, harness.Settings{"VELOCITY_ENVOY_CONFIG": dir})
	passes := func() bool { return e.mustLimit("edge", "user=alice") == "OK: OK" }
	asked := 0
	newClientPasses := func() bool {
		asked++
		return e.mustLimit("edge", fmt.Sprintf("user=new-%d", asked)) == "OK: OK"
	}
	reload := func() harness.Response { return p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "") }
	require.True(t, passes())
	require.True(t, passes())
	require.False(t, passes())

	publish(perYear(0)) // always denies
	require.Eventually(t, func() bool { return !newClientPasses() }, harness.Timeout, harness.Interval)
	publish(perYear(3))
	p.Signal(syscall.SIGHUP)
	require.Eventually(t, newClientPasses, harness.Timeout, harness.Interval)
	assert.False(t, passes(), "both tokens were taken: a larger bucket does not give them back")

	publish("domain: edge\ndescriptors:\n  - {key: user, rate_limit: {unit: eon, requests_per_unit: 1}}\n")
	a := reload()
	require.Equal(t, http.StatusUnprocessableEntity, a.Status, a.Body)
	wrong := a.JSON(t)["errors"]
	require.Len(t, wrong, 1)
	assert.Contains(t, wrong.([]any)[0], filepath.Join(dir, "rules.yaml")+":3:30: unit: ")
	assert.True(t, newClientPasses(), "the earlier rules stay in force")
	assert.InDelta(t, 1, p.Metric("velocity_envoy_config_stale"), 0)

	publish(perYear(5) + "# changed\n")
	a = reload()
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	assert.InDelta(t, 1, a.JSON(t)["envoy"].(map[string]any)["rules"], 0)
	assert.Zero(t, p.Metric("velocity_envoy_config_stale"))
	assert.GreaterOrEqual(t, p.Metric("velocity_envoy_config_reloads_total", `result="success"`), 3.0)
	assert.GreaterOrEqual(t, p.Metric("velocity_envoy_config_reloads_total", `result="failure"`), 1.0)
	p.Stop()
	assert.NotEmpty(t, p.LogLines("Envoy's rules are reloaded"))
	assert.NotEmpty(t, p.LogLines("Envoy's rules are not reloaded: the earlier rules stay in force"))
}

// A broken policy file does not keep Envoy's rules from being reloaded, and both kinds of errors are in the answer.
func TestEnvoy_eachKindOfFileIsReloadedOnItsOwn(t *testing.T) {
	policies := harness.WriteFile(t, "policies.yaml", onePolicy(10))
	rules := harness.WriteFile(t, "rules.yaml", "{domain: edge, descriptors: [{key: user}]}")
	p, e := startEnvoyService(t, harness.Settings{"VELOCITY_ENVOY_CONFIG": rules, "VELOCITY_POLICY_FILE": policies})
	require.NoError(t, os.WriteFile(policies, []byte("policies: [ { name: A } ]\n"), 0o600))
	require.NoError(t, os.WriteFile(rules, []byte("{domain: edge, descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 0}}]}"), 0o600))
	a := p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "")
	require.Equal(t, http.StatusUnprocessableEntity, a.Status, a.Body)
	assert.Contains(t, a.Body, `policies[0].name: \"A\"`)
	assert.Equal(t, "OVER_LIMIT: OVER_LIMIT", e.mustLimit("edge", "user=alice"))

	require.NoError(t, os.WriteFile(rules, []byte("domain: \n"), 0o600))
	a = p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "")
	require.Equal(t, http.StatusUnprocessableEntity, a.Status, a.Body)
	assert.GreaterOrEqual(t, len(a.JSON(t)["errors"].([]any)), 2)
	assert.Contains(t, a.Body, "rules.yaml:1:")
	assert.Contains(t, a.Body, `policies[0].name: \"A\"`)
	p.Stop()
}
