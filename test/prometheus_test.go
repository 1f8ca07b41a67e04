//go:build doors

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

const rulesFile = "../deploy/prometheus/velocity.rules.yml"

// monitor is a real Prometheus that scrapes one process, with the project's rules.
type monitor struct {
	t   *testing.T
	p   *process
	url string
}

// lookUp finds a program that the tests need.
func lookUp(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	require.NoError(t, err, "these tests need %s: apt-get install %s", program, pkg)
	return path
}

// minutes of the rules are seconds here, so that an alert need not be waited for; expressions and thresholds, which are
// per second, stay as they are.
var minutes = regexp.MustCompile(`\b(\d+)m\b`)

func watchWithPrometheus(t *testing.T, p *process) *monitor {
	t.Helper()
	program := lookUp(t, "prometheus", "prometheus")
	dir := t.TempDir()
	rules, err := os.ReadFile(rulesFile)
	require.NoError(t, err)
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("rules.yml", minutes.ReplaceAllString(string(rules), "${1}s"))
	write("prometheus.yml", fmt.Sprintf(`
global: { scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }
rule_files: [rules.yml]
scrape_configs: [{ job_name: velocity, static_configs: [{ targets: [%q] }] }]
`, strings.TrimPrefix(p.admin, "http://")))

	addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
	m := &monitor{t: t, p: p, url: "http://" + addr}
	var out transcript
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), // no context: the cleanup ends it
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("end of Prometheus's log:\n%s", out.end(2048))
		}
	})
	require.Eventually(t, func() bool {
		a, err := p.ask(http.MethodGet, m.url+"/-/ready", "")
		return err == nil && a.status == http.StatusOK
	}, patience, tick, "Prometheus does not start")
	return m
}

// get asks Prometheus's API and decodes the data of the answer.
func (m *monitor) get(path string, data any) error {
	a, err := m.p.ask(http.MethodGet, m.url+path, "")
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(a.body), &answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return nil
}

// series is how many series a query has now.
func (m *monitor) series(query string) (int, error) {
	var data struct{ Result []json.RawMessage }
	err := m.get("/api/v1/query?query="+url.QueryEscape(query), &data)
	return len(data.Result), err
}

func (m *monitor) fires(alert string) bool {
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	if !assert.NoError(m.t, m.get("/api/v1/alerts", &data)) {
		return false
	}
	for _, a := range data.Alerts {
		if a.State == "firing" && a.Labels["alertname"] == alert {
			return true
		}
	}
	return false
}

// await waits until the alert fires, or until it does not. Meanwhile something may be done again and again.
func (m *monitor) await(alert string, fires bool, meanwhile func()) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		if meanwhile != nil {
			meanwhile()
		}
		return m.fires(alert) == fires
	}, 3*patience, 10*tick, "%s, firing: %v", alert, !fires)
}
