//go:build doors

package test

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
)

// incident is the cause of an alert, and its end.
type incident struct {
	alert string
	// prepare returns the service that it befalls.
	prepare func(t *testing.T, i *incident) *process
	begin   func(t *testing.T, p *process)
	end     func(t *testing.T, p *process)
	// meanwhile goes on before, during and after.
	meanwhile func(p *process)
}

func ask(p *process) { _, _ = p.ask(http.MethodGet, p.url+"/api/resource", "") }

// withRedis starts the service on a Redis of its own.
func withRedis(t *testing.T, vars settings, options ...redistest.Option) (*process, *redistest.Server) {
	server := redistest.Start(t, options...)
	vars["REDIS_ADDR"] = server.Addr
	if vars["VELOCITY_TAKE_TIMEOUT"] == "" {
		vars["VELOCITY_TAKE_TIMEOUT"] = "2s" // a slow machine is no incident
	}
	return start(t, vars), server
}

// deadRedis is an incident of a Redis that dies and comes back.
func deadRedis(alert, mode string) *incident {
	return &incident{
		alert: alert,
		prepare: func(t *testing.T, i *incident) *process {
			p, server := withRedis(t, settings{"VELOCITY_ON_STORE_FAILURE": mode, "VELOCITY_CAPACITY": "1000000"})
			i.begin = func(*testing.T, *process) { server.Kill() }
			i.end = func(*testing.T, *process) { server.Restart() }
			return p
		},
		meanwhile: ask,
	}
}

func down() *incident {
	return &incident{
		alert: "VelocityDown",
		prepare: func(t *testing.T, i *incident) *process {
			addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
			p := start(t, settings{"VELOCITY_ADMIN_ADDR": addr})
			i.begin = func(_ *testing.T, p *process) { p.stop() }
			i.end = func(t *testing.T, _ *process) { start(t, settings{"VELOCITY_ADMIN_ADDR": addr}) }
			return p
		},
	}
}

func brokenPolicies() *incident {
	return &incident{
		alert: "VelocityReloadFailed",
		prepare: func(t *testing.T, i *incident) *process {
			file := filepath.Join(t.TempDir(), "policies.yaml")
			write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
			const right = "policies: [{ name: default, limits: [{ rate: 5/s, capacity: 10 }] }]\n"
			write(right)
			i.begin = func(*testing.T, *process) { write("policies: [{ name: default, limits: [{ rate: often }] }]\n") }
			i.end = func(*testing.T, *process) { write(right) }
			return start(t, settings{"VELOCITY_POLICY_FILE": file})
		},
	}
}

func denialSurge() *incident {
	greedy := false
	return &incident{
		alert: "VelocityDenialSurge",
		prepare: func(t *testing.T, i *incident) *process {
			i.begin = func(*testing.T, *process) { greedy = true }
			i.end = func(*testing.T, *process) { greedy = false }
			return start(t, settings{"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1"})
		},
		meanwhile: func(p *process) {
			for i := range 30 {
				client := "one and the same"
				if !greedy {
					client = fmt.Sprint(time.Now().UnixNano(), i)
				}
				_, _ = p.ask(http.MethodGet, p.url+"/api/resource", "", "X-Client-ID: "+client)
			}
		},
	}
}

// slowLink is a way to addr whose answers can be held up for some milliseconds each.
func slowLink(t *testing.T, addr string) (listen string, holdUp func(milliseconds int)) {
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
		prepare: func(t *testing.T, i *incident) *process {
			addr, holdUp := slowLink(t, redistest.Start(t).Addr)
			i.begin = func(*testing.T, *process) { holdUp(60) }
			i.end = func(*testing.T, *process) { holdUp(0) }
			return start(t, settings{
				"REDIS_ADDR": addr, "VELOCITY_TAKE_TIMEOUT": "2s", "VELOCITY_CAPACITY": "1000000",
			})
		},
		meanwhile: ask,
	}
}

// overload is a flood of clients for a shard that takes some 10,000 a second: more callers than may wait for it.
func overload() *incident {
	const callers, each = 48, 128 // a caller's decisions ride together, and 4,096 may wait
	var flood sync.WaitGroup
	return &incident{
		alert: "VelocityOverload",
		prepare: func(t *testing.T, i *incident) *process {
			addr, holdUp := slowLink(t, redistest.Start(t).Addr)
			ctx, end := context.WithCancel(t.Context())
			i.begin = func(_ *testing.T, p *process) {
				holdUp(50)
				for range callers {
					flood.Go(func() {
						for ctx.Err() == nil {
							askMany(p, each)
							time.Sleep(10 * tick) // who is refused does not wait
						}
					})
				}
			}
			i.end = func(*testing.T, *process) {
				end()
				flood.Wait()
				holdUp(0)
			}
			t.Cleanup(flood.Wait)
			return start(t, settings{"REDIS_ADDR": addr, "VELOCITY_TAKE_TIMEOUT": "5s", "VELOCITY_LOG_DECISIONS": "none"})
		},
		meanwhile: ask,
	}
}

// askMany is a call with n decisions about as many clients.
func askMany(p *process, n int) {
	var checks strings.Builder
	client := fmt.Sprintf("%d-%0100d", time.Now().UnixNano(), 0)
	for i := range n {
		fmt.Fprintf(&checks, `,{"key":"%d-%s"}`, i, client)
	}
	_, _ = p.ask(http.MethodPost, p.url+"/v1/checks", `{"checks":[`+checks.String()[1:]+`]}`)
}

// stuckLog is an output that takes nothing for a while, under more lines than may wait for it.
func stuckLog() *incident {
	stuck := false
	return &incident{
		alert: "VelocityLogLinesDropped",
		prepare: func(t *testing.T, i *incident) *process {
			p := start(t, settings{"VELOCITY_MEMORY_MAX_BUCKETS": "1000"})
			// What copies the process's output waits for this lock, the pipe is full, and the service's writer waits, too.
			unlock := sync.OnceFunc(p.stdout.mu.Unlock)
			i.begin = func(t *testing.T, p *process) {
				p.stdout.mu.Lock()
				t.Cleanup(unlock) // before that of the process, which waits for its output
				stuck = true
			}
			i.end = func(*testing.T, *process) { unlock(); stuck = false }
			return p
		},
		meanwhile: func(p *process) {
			if stuck {
				askMany(p, 1000)
			}
		},
	}
}

func evictions() *incident {
	crowd := false
	return &incident{
		alert: "VelocityBucketsEvicted",
		prepare: func(t *testing.T, i *incident) *process {
			i.begin = func(*testing.T, *process) { crowd = true }
			i.end = func(*testing.T, *process) { crowd = false }
			return start(t, settings{
				"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_MEMORY_MAX_BUCKETS": "1000", "VELOCITY_RATE": "1/h",
				"VELOCITY_LOG_DECISIONS": "none",
			})
		},
		meanwhile: func(p *process) {
			for i := 0; crowd && i < 400; i++ {
				_, _ = p.ask(http.MethodGet, p.url+"/api/resource", "", fmt.Sprintf("X-Client-ID: %d-%d", time.Now().UnixNano(), i))
			}
		},
	}
}

func clockSkew() *incident {
	return &incident{
		alert: "VelocityClockSkew",
		prepare: func(t *testing.T, i *incident) *process {
			dir := t.TempDir()
			library, offset := filepath.Join(dir, "clock.so"), filepath.Join(dir, "offset")
			out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-shared", "-fPIC", "-o", library,
				filepath.Join("faults", "testdata", "clock.c")).CombinedOutput()
			require.NoError(t, err, "the clock needs gcc (apt-get install gcc libc6-dev): %s", out)
			set := func(t *testing.T, by time.Duration) {
				// In place: the server has the file mapped.
				file, err := os.OpenFile(offset, os.O_WRONLY|os.O_CREATE, 0o600)
				require.NoError(t, err)
				_, err = file.WriteAt(encoding.NativeEndian.AppendUint64(nil, uint64(by.Microseconds())), 0)
				require.NoError(t, err)
				require.NoError(t, file.Close())
			}
			set(t, 0)
			i.begin = func(t *testing.T, _ *process) { set(t, time.Minute) }
			i.end = func(t *testing.T, _ *process) { set(t, 0) }
			p, _ := withRedis(t, settings{"VELOCITY_CAPACITY": "1000000"},
				redistest.Env("LD_PRELOAD="+library, "CLOCK_OFFSET="+offset))
			return p
		},
		meanwhile: ask,
	}
}

func incidents() []*incident {
	return []*incident{
		down(), deadRedis("VelocityFailOpen", "open"), deadRedis("VelocityFailClosed", "closed"),
		deadRedis("VelocityShardDown", "local"), brokenPolicies(), denialSurge(), slowDecisions(), evictions(), clockSkew(),
		overload(), stuckLog(),
	}
}

// TestAlerts makes the cause of each alert happen to a real service that a real Prometheus watches: the alert is silent
// before, fires, and is silent again when the cause is over.
func TestAlerts(t *testing.T) {
	for _, i := range incidents() {
		t.Run(i.alert, func(t *testing.T) {
			t.Parallel()
			p := i.prepare(t, i)
			meanwhile := func() {
				if i.meanwhile != nil {
					i.meanwhile(p)
				}
			}
			m := watchWithPrometheus(t, p)
			require.Eventually(t, func() bool {
				meanwhile()
				n, err := m.series(`up{job="velocity"} == 1`)
				return err == nil && n == 1
			}, patience, tick, "the service is not scraped")
			assert.False(t, m.fires(i.alert), "before")
			i.begin(t, p)
			m.await(i.alert, true, meanwhile)
			i.end(t, p)
			m.await(i.alert, false, meanwhile)
		})
	}
}

// Each alert has an incident here, a test of promtool's in which it fires and one in which it does not, and a row in
// the documentation that says what to do.
func TestAlerts_noneIsUntestedOrUnexplained(t *testing.T) {
	named := namesIn(t, rulesFile, `- alert: (\w+)`)
	var happened []string
	for _, i := range incidents() {
		happened = append(happened, i.alert)
	}
	slices.Sort(happened)
	assert.Equal(t, named, happened)
	assert.Equal(t, named, namesIn(t, "../docs/operating.md", "(?m)^\\| `(Velocity\\w+)` \\|"))

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

// namesIn lists, sorted, what the pattern's group matches.
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
		cmd.Dir = filepath.Dir(rulesFile)
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "%s", out)
	}
}
