//go:build integration

package integration

import (
	"context"
	encoding "encoding/binary"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/goccy/go-yaml"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// incident causes an alert, and ends the cause.
type incident struct {
	alert string
	// prepare returns the service that has the incident.
	prepare func(t *testing.T, i *incident) *harness.Process
	begin   func(t *testing.T, p *harness.Process)
	end     func(t *testing.T, p *harness.Process)
	// load is called again and again, before, during and after the incident; nil: there is no load.
	load func(p *harness.Process)
}

func request(p *harness.Process) { _, _ = p.Do(http.MethodGet, p.URL+"/api/resource", "") }

// withRedis starts the service on a new Redis server.
func withRedis(t *testing.T, vars harness.Settings, options ...redistest.Option) (*harness.Process, *redistest.Server) {
	server := redistest.Start(t, options...)
	vars["REDIS_ADDR"] = server.Addr
	if vars["VELOCITY_TAKE_TIMEOUT"] == "" {
		vars["VELOCITY_TAKE_TIMEOUT"] = "2s" // a slow machine must not look like an incident
	}
	return harness.Start(t, vars), server
}

// deadRedis kills Redis and starts it again.
func deadRedis(alert, mode string) *incident {
	return &incident{
		alert: alert,
		prepare: func(t *testing.T, i *incident) *harness.Process {
			p, server := withRedis(t, harness.Settings{"VELOCITY_ON_STORE_FAILURE": mode, "VELOCITY_CAPACITY": "1000000"})
			i.begin = func(*testing.T, *harness.Process) { server.Kill() }
			i.end = func(*testing.T, *harness.Process) { server.Restart() }
			return p
		},
		load: request,
	}
}

func down() *incident {
	return &incident{
		alert: "VelocityDown",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			addr := freeAddr(t)
			p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_ADDR": addr})
			i.begin = func(_ *testing.T, p *harness.Process) { p.Stop() }
			i.end = func(t *testing.T, _ *harness.Process) {
				harness.Start(t, harness.Settings{"VELOCITY_ADMIN_ADDR": addr})
			}
			return p
		},
	}
}

func brokenPolicies() *incident {
	return &incident{
		alert: "VelocityReloadFailed",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			return i.changePolicies(t, "policies: [{ name: default, limits: [{ rate: 5/s, capacity: 10 }] }]\n",
				"policies: [{ name: default, limits: [{ rate: often }] }]\n")
		},
	}
}

func denialSurge() *incident {
	greedy := false
	return &incident{
		alert: "VelocityDenialSurge",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			i.begin = func(*testing.T, *harness.Process) { greedy = true }
			i.end = func(*testing.T, *harness.Process) { greedy = false }
			return harness.Start(t, harness.Settings{"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1"})
		},
		load: func(p *harness.Process) {
			for i := range 30 {
				client := "one client"
				if !greedy {
					client = fmt.Sprint(time.Now().UnixNano(), i)
				}
				_, _ = p.Do(http.MethodGet, p.URL+"/api/resource", "", "X-Client-ID: "+client)
			}
		},
	}
}

// slowLink starts a proxy to addr, which can delay each response.
func slowLink(t *testing.T, addr string) (listen string, delay func(milliseconds int)) {
	t.Helper()
	link := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "link", "127.0.0.1:0", addr)
	require.NoError(t, link.Start())
	t.Cleanup(link.Stop)
	return link.Listen, func(milliseconds int) {
		link.Toxics.ResetToxics(t.Context())
		if milliseconds > 0 {
			_, err := link.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
				`{"type": "latency", "stream": "downstream", "toxicity": 1, "attributes": {"latency": %d}}`, milliseconds)))
			require.NoError(t, err)
		}
	}
}

func slowDecisions() *incident {
	return &incident{
		alert: "VelocitySlowDecisions",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			addr, delay := slowLink(t, redistest.Start(t).Addr)
			i.begin = func(*testing.T, *harness.Process) { delay(60) }
			i.end = func(*testing.T, *harness.Process) { delay(0) }
			return harness.Start(t, harness.Settings{
				"REDIS_ADDR": addr, "VELOCITY_TAKE_TIMEOUT": "2s", "VELOCITY_CAPACITY": "1000000",
			})
		},
		load: request,
	}
}

// overload floods a slow shard with more clients than may wait for it.
func overload() *incident {
	const callers, each = 48, 128 // a caller's decisions are one batch, and 4,096 decisions may wait
	var flood sync.WaitGroup
	return &incident{
		alert: "VelocityOverload",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			addr, delay := slowLink(t, redistest.Start(t).Addr)
			ctx, end := context.WithCancel(t.Context())
			i.begin = func(_ *testing.T, p *harness.Process) {
				delay(50)
				for range callers {
					flood.Go(func() {
						for ctx.Err() == nil {
							checkMany(p, each)
							time.Sleep(10 * harness.Interval) // a refused call does not wait
						}
					})
				}
			}
			i.end = func(*testing.T, *harness.Process) {
				end()
				flood.Wait()
				delay(0)
			}
			t.Cleanup(flood.Wait)
			return harness.Start(t, harness.Settings{"REDIS_ADDR": addr, "VELOCITY_TAKE_TIMEOUT": "5s", "VELOCITY_LOG_DECISIONS": "none"})
		},
		load: request,
	}
}

// checkMany requests n decisions about as many clients in one call.
func checkMany(p *harness.Process, n int) {
	var checks strings.Builder
	client := fmt.Sprintf("%d-%0100d", time.Now().UnixNano(), 0)
	for i := range n {
		fmt.Fprintf(&checks, `,{"key":"%d-%s"}`, i, client)
	}
	_, _ = p.Do(http.MethodPost, p.URL+"/v1/checks", `{"checks":[`+checks.String()[1:]+`]}`)
}

// stuckLog blocks the output of the log, under more lines than the service buffers.
func stuckLog() *incident {
	stuck := false
	return &incident{
		alert: "VelocityLogLinesDropped",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			p := harness.Start(t, harness.Settings{"VELOCITY_MEMORY_MAX_BUCKETS": "1000"})
			var unblock func()
			i.begin = func(t *testing.T, p *harness.Process) {
				unblock = p.Stdout.Block()
				t.Cleanup(unblock) // runs before the cleanup of the process, which waits for its output
				stuck = true
			}
			i.end = func(*testing.T, *harness.Process) { unblock(); stuck = false }
			return p
		},
		load: func(p *harness.Process) {
			if stuck {
				checkMany(p, 1000)
			}
		},
	}
}

func evictions() *incident {
	crowd := false
	return &incident{
		alert: "VelocityBucketsEvicted",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			i.begin = func(*testing.T, *harness.Process) { crowd = true }
			i.end = func(*testing.T, *harness.Process) { crowd = false }
			return harness.Start(t, harness.Settings{
				"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_MEMORY_MAX_BUCKETS": "1000", "VELOCITY_RATE": "1/h",
				"VELOCITY_LOG_DECISIONS": "none",
			})
		},
		load: func(p *harness.Process) {
			for i := 0; crowd && i < 400; i++ {
				_, _ = p.Do(http.MethodGet, p.URL+"/api/resource", "", fmt.Sprintf("X-Client-ID: %d-%d", time.Now().UnixNano(), i))
			}
		},
	}
}

func clockSkew() *incident {
	return &incident{
		alert: "VelocityClockSkew",
		prepare: func(t *testing.T, i *incident) *harness.Process {
			dir := t.TempDir()
			library, offset := filepath.Join(dir, "clock.so"), filepath.Join(dir, "offset")
			out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-shared", "-fPIC", "-o", library,
				filepath.Join("faults", "testdata", "clock.c")).CombinedOutput()
			require.NoError(t, err, "the clock needs gcc (apt-get install gcc libc6-dev): %s", out)
			set := func(t *testing.T, by time.Duration) {
				// In place, since the server has mapped the file.
				file, err := os.OpenFile(offset, os.O_WRONLY|os.O_CREATE, 0o600)
				require.NoError(t, err)
				_, err = file.WriteAt(encoding.NativeEndian.AppendUint64(nil, uint64(by.Microseconds())), 0)
				require.NoError(t, err)
				require.NoError(t, file.Close())
			}
			set(t, 0)
			i.begin = func(t *testing.T, _ *harness.Process) { set(t, time.Minute) }
			i.end = func(t *testing.T, _ *harness.Process) { set(t, 0) }
			p, _ := withRedis(t, harness.Settings{"VELOCITY_CAPACITY": "1000000"},
				redistest.Env("LD_PRELOAD="+library, "CLOCK_OFFSET="+offset))
			return p
		},
		load: request,
	}
}

func incidents() []*incident {
	return []*incident{
		down(), deadRedis("VelocityFailOpen", "open"), deadRedis("VelocityFailClosed", "closed"),
		deadRedis("VelocityShardDown", "local"), brokenPolicies(), denialSurge(), slowDecisions(), evictions(), clockSkew(),
		overload(), stuckLog(), missingKeys(), staleKeys(), deadRedis("VelocityOverridesBehind", "local"), unfitOverride(), endedPermits(),
	}
}

// A real Prometheus watches a real service. Each alert is silent before its cause, fires, and is silent after it.
func TestAlerts(t *testing.T) {
	for _, i := range incidents() {
		t.Run(i.alert, func(t *testing.T) {
			t.Parallel()
			p := i.prepare(t, i)
			load := func() {
				if i.load != nil {
					i.load(p)
				}
			}
			m := watchWithPrometheus(t, p)
			require.Eventually(t, func() bool {
				load()
				n, err := m.series(`up{job="velocity"} == 1`)
				return err == nil && n == 1
			}, harness.Timeout, harness.Interval, "the service is not scraped")
			assert.False(t, m.fires(i.alert), "before")
			i.begin(t, p)
			m.await(i.alert, true, load)
			i.end(t, p)
			m.await(i.alert, false, load)
		})
	}
}

// Each alert has an incident here, promtool tests in which it fires and does not fire, and a row in docs/operating.md.
func TestAlerts_eachIsTestedAndDocumented(t *testing.T) {
	named := namesIn(t, rulesFile, `- alert: (\w+)`)
	var happened []string
	for _, i := range incidents() {
		happened = append(happened, i.alert)
	}
	slices.Sort(happened)
	assert.Equal(t, named, happened)
	assert.Equal(t, named, namesIn(t, "../../docs/operating.md", "(?m)^\\| `(Velocity\\w+)` \\|"))

	text, err := os.ReadFile(strings.TrimSuffix(rulesFile, ".yml") + ".test.yml")
	require.NoError(t, err)
	var file struct {
		Tests []struct {
			Rules []struct {
				Alert string `yaml:"alertname"`
				Fired []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	fired := map[bool]map[string]bool{true: {}, false: {}}
	for _, test := range file.Tests {
		for _, rule := range test.Rules {
			fired[len(rule.Fired) > 0][rule.Alert] = true
		}
	}
	for does, names := range fired {
		assert.Equal(t, named, slices.Sorted(maps.Keys(names)), "fires: %v", does)
	}
}

// namesIn returns what the pattern's group matches, sorted.
func namesIn(t *testing.T, file, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var names []string
	for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		names = append(names, string(match[1]))
	}
	slices.Sort(names)
	return names
}

func TestRules_passTheirOwnTests(t *testing.T) {
	promtool := lookUp(t, "promtool", "prometheus")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "velocity.rules.yml"},
		{"test", "rules", "velocity.rules.test.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../../deploy/prometheus"
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "%s", out)
	}
}
