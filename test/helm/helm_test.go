// Package helm renders the chart of deploy/helm and decodes the result into Kubernetes' own types, strictly: an unknown
// field is an error. It is a module of its own, so that no other module requires Kubernetes.
package helm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const chartPath = "../../deploy/helm/velocity"

// load reads the chart. Its version is always the same, so that a release changes no golden file.
func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartPath)
	require.NoError(t, err)
	c.Metadata.Version, c.Metadata.AppVersion = "1.2.3", "1.2.3"
	return c
}

// render returns the documents of the chart, by kind and name, with these values over the chart's own.
func render(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	c := load(t)
	over := map[string]any{}
	require.NoError(t, yaml.Unmarshal([]byte(values), &over))
	all, err := chartutil.ToRenderValues(c, over, chartutil.ReleaseOptions{
		Name: "edge", Namespace: "limits", IsInstall: true,
	}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	documents := map[string]string{}
	for name, text := range files {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for document := range strings.SplitSeq(text, "\n---\n") {
			if strings.TrimSpace(document) == "" {
				continue
			}
			var head struct {
				Kind     string
				Metadata struct{ Name string }
			}
			require.NoError(t, yaml.Unmarshal([]byte(document), &head), document)
			require.NotEmpty(t, head.Kind, "%s: %s", name, document)
			documents[head.Kind+"/"+head.Metadata.Name] = document
		}
	}
	return documents, nil
}

// decode reads one document strictly.
func decode[T any](t *testing.T, documents map[string]string, name string) T {
	t.Helper()
	require.Contains(t, documents, name)
	var out T
	require.NoError(t, yaml.UnmarshalStrict([]byte(documents[name]), &out), documents[name])
	return out
}

const everything = `
redis: { addrs: ["a=redis-0:6379", "b=redis-1:6379"], tls: true, existingSecret: redis }
admin: { token: "s3cret: yes" }
api: { existingSecret: velocity-api }
env: { VELOCITY_TRUSTED_PROXIES: private, VELOCITY_REDIS_POOL_SIZE: 32 }
grpc: { enabled: true }
autoscaling: { enabled: true }
serviceMonitor: { enabled: true, labels: { release: prometheus } }
networkPolicy: { from: [{ podSelector: { matchLabels: { app: gateway } } }] }
imagePullSecrets: [{ name: registry }]
podAnnotations: { example.com/team: edge }
nodeSelector: { kubernetes.io/arch: amd64 }
tolerations: [{ key: dedicated, operator: Exists }]
affinity: { podAntiAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }
`

func TestChart_everyDocumentIsWhatKubernetesKnows(t *testing.T) {
	for name, tt := range map[string]struct {
		values string
		want   int
	}{"little": {"admin: { token: x }", 7}, "everything": {everything, 9}} {
		t.Run(name, func(t *testing.T) {
			documents, err := render(t, tt.values)
			require.NoError(t, err)
			assert.Len(t, documents, tt.want)
			decodeAll(t, documents)
		})
	}
}

// decodeAll reads each document strictly into the type of its kind.
func decodeAll(t *testing.T, documents map[string]string) {
	t.Helper()
	for name := range documents {
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "Deployment":
			decode[apps.Deployment](t, documents, name)
		case "Service":
			decode[core.Service](t, documents, name)
		case "ConfigMap":
			decode[core.ConfigMap](t, documents, name)
		case "Secret":
			decode[core.Secret](t, documents, name)
		case "PodDisruptionBudget":
			decode[policy.PodDisruptionBudget](t, documents, name)
		case "HorizontalPodAutoscaler":
			decode[autoscaling.HorizontalPodAutoscaler](t, documents, name)
		case "NetworkPolicy":
			decode[networking.NetworkPolicy](t, documents, name)
		case "ServiceMonitor":
			decode[monitoring.ServiceMonitor](t, documents, name)
		case "PodMonitor":
			decode[monitoring.PodMonitor](t, documents, name)
		default:
			t.Errorf("a document that this test does not know: %s", name)
		}
	}
}

func TestDeployment_isConfinedAndProbed(t *testing.T) {
	documents, err := render(t, everything)
	require.NoError(t, err)
	d := decode[apps.Deployment](t, documents, "Deployment/edge-velocity")
	assert.Nil(t, d.Spec.Replicas, "the autoscaler's")
	pod := d.Spec.Template.Spec
	assert.True(t, *pod.SecurityContext.RunAsNonRoot)
	assert.False(t, *pod.AutomountServiceAccountToken)
	assert.Equal(t, int64(20), *pod.TerminationGracePeriodSeconds)
	c := pod.Containers[0]
	assert.Equal(t, "velocity:1.2.3", c.Image)
	assert.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
	assert.Equal(t, []core.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
	// While Redis fails and every policy is closed, /readyz fails in all pods at once. Clients must get Velocity's 503 then.
	for _, probe := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		assert.Equal(t, "/healthz", probe.HTTPGet.Path)
		assert.Equal(t, intstr.FromString("admin"), probe.HTTPGet.Port)
	}
	require.Len(t, c.VolumeMounts, 4)
	for _, m := range c.VolumeMounts {
		assert.Empty(t, m.SubPath, "a file mounted by subPath is never updated")
		assert.True(t, m.ReadOnly)
	}
	assert.Equal(t, "edge-velocity-policies", pod.Volumes[0].ConfigMap.Name)

	env := map[string]core.EnvVar{}
	for _, e := range c.Env {
		env[e.Name] = e
	}
	assert.Equal(t, "a=redis-0:6379,b=redis-1:6379", env["VELOCITY_REDIS_ADDRS"].Value)
	assert.Equal(t, "32", env["VELOCITY_REDIS_POOL_SIZE"].Value)
	for name, key := range map[string]string{
		"VELOCITY_ADMIN_TOKEN": "edge-velocity-admin/token", "VELOCITY_API_TOKEN": "velocity-api/token",
		"VELOCITY_REDIS_PASSWORD": "redis/password",
	} {
		assert.NotContains(t, env, name, "a variable never changes")
		assert.Equal(t, key, mountedSecret(t, pod, env[name+"_FILE"].Value))
	}
	username := env["VELOCITY_REDIS_USERNAME"].ValueFrom.SecretKeyRef
	assert.Equal(t, "redis/username", username.Name+"/"+username.Key)
	assert.Equal(t, "s3cret: yes", decode[core.Secret](t, documents, "Secret/edge-velocity-admin").StringData["token"])
}

// mountedSecret returns the Secret and the key, with a slash between, that a container has at a path.
func mountedSecret(t *testing.T, pod core.PodSpec, path string) string {
	t.Helper()
	for _, m := range pod.Containers[0].VolumeMounts {
		file, within := strings.CutPrefix(path, m.MountPath+"/")
		for _, v := range pod.Volumes {
			if within && v.Name == m.Name && v.Secret != nil && v.Secret.Items[0].Path == file {
				return v.Secret.SecretName + "/" + v.Secret.Items[0].Key
			}
		}
	}
	require.Fail(t, "no Secret is mounted there", path)
	return ""
}

func TestNetworkPolicy_neitherLimitsNorMetricsArePublic(t *testing.T) {
	documents, err := render(t, "admin: { token: x }")
	require.NoError(t, err)
	n := decode[networking.NetworkPolicy](t, documents, "NetworkPolicy/edge-velocity")
	require.Len(t, n.Spec.Ingress, 2)
	assert.Equal(t, "http", n.Spec.Ingress[0].Ports[0].Port.StrVal)
	assert.Empty(t, n.Spec.Ingress[0].From)
	admin := n.Spec.Ingress[1]
	assert.Equal(t, "admin", admin.Ports[0].Port.StrVal)
	require.Len(t, admin.From, 1)
	assert.Equal(t, "monitoring", admin.From[0].NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"])

	documents, err = render(t, "{ admin: { token: x }, networkPolicy: { adminFrom: [] } }")
	require.NoError(t, err)
	n = decode[networking.NetworkPolicy](t, documents, "NetworkPolicy/edge-velocity")
	assert.Len(t, n.Spec.Ingress, 1, "no peer may reach the admin plane")

	public := decode[core.Service](t, documents, "Service/edge-velocity")
	require.Len(t, public.Spec.Ports, 1)
	assert.Equal(t, "http", public.Spec.Ports[0].TargetPort.StrVal)
}

// A gRPC port must be in the container, the service and the network policy, else no client reaches it.
func TestGRPC_isInEachObjectThatNamesPorts(t *testing.T) {
	for values, want := range map[string][]string{
		"{ admin: { token: x } }":                                      {"http"},
		"{ admin: { token: x }, grpc: { enabled: true, port: 8081 } }": {"http", "grpc"},
	} {
		documents, err := render(t, values)
		require.NoError(t, err)
		container := decode[apps.Deployment](t, documents, "Deployment/edge-velocity").Spec.Template.Spec.Containers[0]
		ports := map[string]int32{}
		for _, p := range container.Ports {
			ports[p.Name] = p.ContainerPort
		}
		var served, let []string
		for _, p := range decode[core.Service](t, documents, "Service/edge-velocity").Spec.Ports {
			served = append(served, p.Name)
			assert.Equal(t, p.Name, p.TargetPort.StrVal)
			assert.Contains(t, ports, p.Name)
			if p.Name == "grpc" {
				assert.Equal(t, int32(8081), p.Port)
			}
		}
		for _, p := range decode[networking.NetworkPolicy](t, documents, "NetworkPolicy/edge-velocity").Spec.Ingress[0].Ports {
			let = append(let, p.Port.StrVal)
		}
		assert.Equal(t, want, served, values)
		assert.Equal(t, want, let, values)
		assert.Len(t, ports, len(want)+1, "and admin")
		addr := ""
		for _, e := range container.Env {
			if e.Name == "VELOCITY_GRPC_ADDR" {
				addr = e.Value
			}
		}
		if port, on := ports["grpc"]; on {
			assert.Equal(t, fmt.Sprintf(":%d", port), addr)
		} else {
			assert.Empty(t, addr)
		}
	}
}

// The image and the secrets that docs/operating.md creates are those that the chart uses.
func TestDocs_theCommandsFitTheChart(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating.md")
	require.NoError(t, err)
	page := strings.ReplaceAll(string(text), "\\\n", " ")
	one := func(pattern string) string {
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1)
		require.Len(t, found, 1, pattern)
		return found[0][1]
	}
	values := map[string]any{}
	for _, set := range regexp.MustCompile(`--set '?([^\s'`+"`"+`]+)`).FindAllStringSubmatch(page, -1) {
		require.NoError(t, strvals.ParseInto(set[1], values), set[1])
	}
	written, err := yaml.Marshal(values)
	require.NoError(t, err)
	documents, err := render(t, string(written))
	require.NoError(t, err)

	built := one(`docker tag (\S+) `)
	assert.Equal(t, "velocity:"+one(`make docker-build VERSION=(\S+)`), built)
	pod := decode[apps.Deployment](t, documents, "Deployment/"+one(`port-forward deployment/(\S+)`)).Spec.Template.Spec
	container := pod.Containers[0]
	assert.Equal(t, one(`docker push (\S+)`), container.Image)
	assert.Equal(t, one(`docker tag \S+ (\S+)`), container.Image)
	env := map[string]core.EnvVar{}
	for _, e := range container.Env {
		env[e.Name] = e
	}
	token := mountedSecret(t, pod, env["VELOCITY_ADMIN_TOKEN_FILE"].Value)
	assert.Equal(t, one(`create secret generic (\S+)`)+"/"+one(`--from-literal=(\w+)=`), token)
	assert.Equal(t, "a="+one(`create deployment (\S+)`)+":"+one(`expose deployment redis --port=(\d+)`), env["VELOCITY_REDIS_ADDRS"].Value)
	assert.Equal(t, "http://backend:8080", env["VELOCITY_UPSTREAM_URL"].Value)
	assert.Contains(t, page, "kubectl create namespace "+one(`helm upgrade .* --namespace (\S+)`)+"\n")
}

func TestServiceMonitor_findsTheAdminServiceAlone(t *testing.T) {
	documents, err := render(t, everything)
	require.NoError(t, err)
	m := decode[monitoring.ServiceMonitor](t, documents, "ServiceMonitor/edge-velocity")
	found := 0
	for _, name := range []string{"Service/edge-velocity", "Service/edge-velocity-admin"} {
		labels := decode[core.Service](t, documents, name).Labels
		matches := true
		for k, v := range m.Spec.Selector.MatchLabels {
			matches = matches && labels[k] == v
		}
		if matches {
			found++
			assert.Equal(t, "Service/edge-velocity-admin", name)
		}
	}
	assert.Equal(t, 1, found)
	assert.Equal(t, "edge-velocity-admin", m.Spec.Endpoints[0].Authorization.Credentials.Name)

	documents, err = render(t, "{ admin: { existingSecret: tokens }, serviceMonitor: { enabled: true, existingSecret: scraping } }")
	require.NoError(t, err)
	m = decode[monitoring.ServiceMonitor](t, documents, "ServiceMonitor/edge-velocity")
	assert.Equal(t, "scraping", m.Spec.Endpoints[0].Authorization.Credentials.Name)
}

func TestChart_refusesWhatItCannotRun(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"{}", "the admin plane needs a token"},
		{"{ admin: { token: x }, replica: 3 }", "replica"},
		{"{ admin: { token: x }, replicas: 0 }", "replicas"},
		{"{ admin: { token: x }, drainPeriod: 5 }", "drainPeriod"},
		{"{ admin: { token: x }, env: { lower: x } }", "lower"},
		{"{ admin: { token: x }, env: { VELOCITY_GRPC_ADDR: ':3002' } }", "env.VELOCITY_GRPC_ADDR: the addresses are the chart's own"},
		{"{ admin: { token: x }, grpc: { enabled: true, port: 80 } }", "grpc.port and service.port are the same"},
		{"{ admin: { token: x }, grpc: { enable: true } }", "enable"},
		{"{ admin: { token: x }, policies: { policies: [] } }", "policies"},
		{"{ admin: { token: x }, podSecurityContext: { runAsNonRoot: false } }", "runAsNonRoot"},
		{"{ admin: { token: x }, podSecurityContext: { runAsUser: 0 } }", "runAsUser"},
		{"{ admin: { token: x }, topologySpreadConstraints: [ { maxSkew: 1, topologyKey: zone } ] }", "whenUnsatisfiable"},
		{"{ admin: { token: x }, podMonitor: { enabled: true }, serviceMonitor: { enabled: true } }", "scraped twice: enable one"},
	} {
		_, err := render(t, c.values)
		assert.ErrorContains(t, err, c.want, c.values)
	}
}

// api runs the service's binary, which the chart configures.
func api(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./cmd/api"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestChart_speaksTheLanguageOfTheService(t *testing.T) {
	documents, err := render(t, everything)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "policies.yaml")
	config := decode[core.ConfigMap](t, documents, "ConfigMap/edge-velocity-policies")
	require.NoError(t, os.WriteFile(file, []byte(config.Data["policies.yaml"]), 0o600))
	assert.Contains(t, api(t, "validate", file), "default")

	settings := api(t, "-h")
	names := regexp.MustCompile(`VELOCITY_[A-Z_]+`).FindAllString(documents["Deployment/edge-velocity"], -1)
	assert.Greater(t, len(names), 8)
	for _, name := range names {
		row := regexp.MustCompile(`(?m)^  ` + name + ` |; or a file with it, in ` + name + `\b`)
		assert.True(t, row.MatchString(settings), "the service has no such setting: %s", name)
	}
}
