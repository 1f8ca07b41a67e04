//go:build integration

package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// The incidents of what belongs to single clients: their tokens, overrides and permits.

const oneKey = `{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "use": "sig", "x": "npGICfH_4DmWayhh6M8ekiZeTXlt_k4-o_xX5NdvaYw"}]}`

// changeFile has the incident be that a text is in a file instead of the right one, which it writes now.
func (i *incident) changeFile(t *testing.T, path, right, wrong string) {
	write := func(t *testing.T, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(t, right)
	i.begin = func(t *testing.T, _ *harness.Process) { write(t, wrong) }
	i.end = func(t *testing.T, _ *harness.Process) { write(t, right) }
}

// changePolicies starts a service, and has the incident be that a policy file is in place of the right one.
func (i *incident) changePolicies(t *testing.T, right, wrong string) *harness.Process {
	path := filepath.Join(t.TempDir(), "policies.yaml")
	i.changeFile(t, path, right, wrong)
	return harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": path})
}

// byClaim is a policy file that believes tokens by keys from this place.
func byClaim(keys string) string {
	return "jwt: { " + keys + " }\npolicies: [{ name: default, key: claim:sub, limits: [{ rate: 5/s, capacity: 10 }] }]\n"
}

// missingKeys names another URL of keys, at which there are none.
func missingKeys() *incident {
	return &incident{
		alert: "VelocityTokenKeysMissing",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/keys" {
					http.NotFound(w, r)
					return
				}
				_, _ = io.WriteString(w, oneKey)
			}))
			t.Cleanup(keys.Close)
			return i.changePolicies(t, byClaim(`jwks_url: "`+keys.URL+`/keys"`), byClaim(`jwks_url: "`+keys.URL+`/none"`))
		},
	}
}

func staleKeys() *incident {
	return &incident{
		alert: "VelocityTokenKeysStale",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			policies := harness.WriteFile(t, "policies.yaml", byClaim("jwks_file: keys.json"))
			i.changeFile(t, filepath.Join(filepath.Dir(policies), "keys.json"), oneKey, "{")
			return harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": policies})
		},
	}
}

// unfitOverride renames the limit that an override is about.
func unfitOverride() *incident {
	return &incident{
		alert: "VelocityOverridesUnfit",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			p := i.changePolicies(t, "policies: [{ name: default, limits: [{ name: burst, rate: 5/s, capacity: 10 }] }]\n",
				"policies: [{ name: default, limits: [{ name: other, rate: 5/s, capacity: 10 }] }]\n")
			set := p.MustDo(http.MethodPut, p.Admin+"/v1/overrides/default/192.0.2.7", `{"limits":[{"name":"burst","capacity":50}]}`,
				"Content-Type: application/json")
			require.Equal(t, http.StatusOK, set.Status, set.Body)
			return p
		},
	}
}

// endedPermits ends the permits of requests while these are in progress.
func endedPermits() *incident {
	var ended atomic.Bool
	return &incident{
		alert: "VelocityPermitsExpired",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			var p *harness.Process
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if ended.Load() {
					_, _ = p.Do(http.MethodDelete, p.Admin+"/v1/permits/default/all", "")
				}
				w.Header().Set("Content-Type", "application/json") // as Velocity itself answers at this path, which each answer is checked for
				_, _ = w.Write([]byte(`{"message":"done"}`))
			}))
			t.Cleanup(upstream.Close)
			i.begin = func(*testing.T, *harness.Process) { ended.Store(true) }
			i.end = func(*testing.T, *harness.Process) { ended.Store(false) }
			p = harness.Start(t, harness.Settings{
				"VELOCITY_UPSTREAM_URL": upstream.URL, "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml",
					"policies: [{ name: default, key: global, limits: [{ concurrent: 100, lease: 60s }] }]\n"),
			})
			return p
		},
		load: request,
	}
}
