package helm

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files again")

// examples returns the values files of deploy/helm/examples, by name.
func examples(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../deploy/helm/examples/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 5)
	texts := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[strings.TrimSuffix(filepath.Base(file), ".yaml")] = string(text)
	}
	return texts
}

// Each values file gives the documents in testdata, and a change of a template shows there what it changes for whom.
func TestExamples_renderAsInTheGoldenFiles(t *testing.T) {
	for name, values := range examples(t) {
		t.Run(name, func(t *testing.T) {
			documents, err := render(t, values)
			require.NoError(t, err)
			decodeAll(t, documents)
			var names []string
			for document := range documents {
				names = append(names, document)
			}
			slices.Sort(names)
			var all strings.Builder
			for _, document := range names {
				all.WriteString("---\n" + strings.TrimSpace(documents[document]) + "\n")
			}
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(all.String()), 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), all.String(), "right? Then: go test . -run TestExamples -update")
		})
	}
}

// helm lint finds nothing but the icon that the chart lacks.
func TestExamples_passHelmLint(t *testing.T) {
	for name, values := range examples(t) {
		over := map[string]any{}
		require.NoError(t, yaml.Unmarshal([]byte(values), &over))
		for _, message := range lint.AllWithKubeVersion(chartPath, over, "limits", nil).Messages {
			assert.LessOrEqual(t, message.Severity, support.InfoSev, "%s: %s", name, message)
		}
	}
}

// A trusted proxy must not pass on the plan that a client claims to have.
func TestExamples_behindAProxyClearThePlan(t *testing.T) {
	behind := 0
	for name, values := range examples(t) {
		if strings.Contains(values, "VELOCITY_TRUSTED_PROXIES") {
			behind++
			assert.Contains(t, values, `proxySetHeaders: { X-Plan: "" }`, name)
		}
	}
	assert.Positive(t, behind)
}

// The policies of each example are valid.
func TestExamples_policiesAreValid(t *testing.T) {
	for name, values := range examples(t) {
		documents, err := render(t, values)
		require.NoError(t, err, name)
		file := filepath.Join(t.TempDir(), "policies.yaml")
		config := decode[core.ConfigMap](t, documents, "ConfigMap/edge-velocity-policies")
		require.NoError(t, os.WriteFile(file, []byte(config.Data["policies.yaml"]), 0o600))
		assert.Contains(t, api(t, "validate", file), "valid: ", name)
	}
}

// Whatever a policy file may have at its top, the chart's policies may have.
func TestSchema_knowsTheTopOfAPolicyFile(t *testing.T) {
	top := func(path string, at ...string) []string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var schema map[string]any
		require.NoError(t, json.Unmarshal(text, &schema))
		for _, name := range append(at, "properties") {
			schema = schema[name].(map[string]any)
		}
		var names []string
		for name := range schema {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	assert.Equal(t, top("../../deploy/policy.schema.json"), top(chartPath+"/values.schema.json", "properties", "policies"))
}

// What the Pod Security Standard "restricted" demands of a pod that uses nothing of its host
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted).
func TestExamples_podsAreRestricted(t *testing.T) {
	for name, values := range examples(t) {
		documents, err := render(t, values)
		require.NoError(t, err, name)
		pod := decode[apps.Deployment](t, documents, "Deployment/edge-velocity").Spec.Template.Spec
		assert.True(t, *pod.SecurityContext.RunAsNonRoot, name)
		assert.Equal(t, core.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type, name)
		assert.False(t, pod.HostNetwork || pod.HostPID || pod.HostIPC, name)
		for _, v := range pod.Volumes {
			assert.True(t, v.ConfigMap != nil || v.Secret != nil, "%s: %s", name, v.Name)
		}
		require.Len(t, pod.Containers, 1, name)
		c := pod.Containers[0].SecurityContext
		assert.False(t, *c.AllowPrivilegeEscalation, name)
		assert.Equal(t, &core.Capabilities{Drop: []core.Capability{"ALL"}}, c.Capabilities, name)
		if name == "openshift" {
			assert.Nil(t, pod.SecurityContext.RunAsUser, "the platform's")
		}
	}
}

// The pods that are spread, and scraped, are those of the release.
func TestExamples_selectTheirOwnPods(t *testing.T) {
	texts := examples(t)
	documents, err := render(t, texts["sharded"])
	require.NoError(t, err)
	deployment := decode[apps.Deployment](t, documents, "Deployment/edge-velocity")
	spread := deployment.Spec.Template.Spec.TopologySpreadConstraints
	require.Len(t, spread, 2)
	assert.Equal(t, core.DoNotSchedule, spread[0].WhenUnsatisfiable)
	for _, s := range spread {
		assert.Equal(t, deployment.Spec.Selector, s.LabelSelector)
	}

	documents, err = render(t, "{ admin: { token: x }, topologySpreadConstraints: [ { maxSkew: 2, topologyKey: rack, "+
		"whenUnsatisfiable: ScheduleAnyway, labelSelector: { matchExpressions: [ { key: app, operator: Exists } ] } } ] }")
	require.NoError(t, err)
	own := decode[apps.Deployment](t, documents, "Deployment/edge-velocity").Spec.Template.Spec.TopologySpreadConstraints
	require.Len(t, own, 1)
	assert.Len(t, own[0].LabelSelector.MatchExpressions, 1)
	assert.Empty(t, own[0].LabelSelector.MatchLabels)

	documents, err = render(t, texts["openshift"])
	require.NoError(t, err)
	m := decode[monitoring.PodMonitor](t, documents, "PodMonitor/edge-velocity")
	assert.Equal(t, deployment.Spec.Selector.MatchLabels, m.Spec.Selector.MatchLabels)
	require.Len(t, m.Spec.PodMetricsEndpoints, 1)
	assert.Equal(t, "admin", *m.Spec.PodMetricsEndpoints[0].Port)
	assert.Equal(t, "velocity-admin", m.Spec.PodMetricsEndpoints[0].Authorization.Credentials.Name)
}
