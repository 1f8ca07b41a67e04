//go:build doors

package test

import (
	"bytes"
	encoding "encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
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

func slowDecisions() *incident {
	return &incident{
		alert: "VelocitySlowDecisions",
		prepare: func(t *testing.T, i *incident) *process {
			server := redistest.Start(t)
			link := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "link",
				"127.0.0.1:0", server.Addr)
			require.NoError(t, link.Start())
			t.Cleanup(link.Stop)
			i.begin = func(t *testing.T, _ *process) {
				_, err := link.Toxics.AddToxicJson(bytes.NewReader([]byte(
					`{"type": "latency", "stream": "downstream", "toxicity": 1, "attributes": {"latency": 60}}`)))
				require.NoError(t, err)
			}
			i.end = func(t *testing.T, _ *process) { link.Toxics.ResetToxics(t.Context()) }
			return start(t, settings{
				"REDIS_ADDR": link.Listen, "VELOCITY_TAKE_TIMEOUT": "2s", "VELOCITY_CAPACITY": "1000000",
			})
		},
		meanwhile: ask,
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

func TestAlerts_eachHasAnIncident(t *testing.T) {
	rules, err := os.ReadFile(rulesFile)
	require.NoError(t, err)
	var named, tested []string
	for _, match := range regexp.MustCompile(`- alert: (\w+)`).FindAllSubmatch(rules, -1) {
		named = append(named, string(match[1]))
	}
	for _, i := range incidents() {
		tested = append(tested, i.alert)
	}
	slices.Sort(named)
	slices.Sort(tested)
	assert.Equal(t, named, tested)
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
