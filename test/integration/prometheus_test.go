//go:build integration

package integration

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

	"github.com/velocity-limiter/velocity/test/harness"
)

const rulesFile = "../../deploy/prometheus/velocity.rules.yml"

// monitor is a real Prometheus that scrapes one process, with the project's rules.
type monitor struct {
	t   *testing.T
	p   *harness.Process
	url string
}

// lookUp returns the path of a program, which must be installed.
func lookUp(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	require.NoError(t, err, "these tests need %s: apt-get install %s", program, pkg)
	return path
}

// minutes matches durations in minutes. They become seconds, so that alerts fire soon. Thresholds are rates per second and
// stay as they are.
var minutes = regexp.MustCompile(`\b(\d+)m\b`)

func watchWithPrometheus(t *testing.T, p *harness.Process) *monitor {
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
`, strings.TrimPrefix(p.Admin, "http://")))

	addr := freeAddr(t)
	m := &monitor{t: t, p: p, url: "http://" + addr}
	var out harness.Output
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), // no context: the cleanup ends it
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("end of Prometheus's log:\n%s", out.Tail(2048))
		}
	})
	require.Eventually(t, func() bool {
		a, err := p.Do(http.MethodGet, m.url+"/-/ready", "")
		return err == nil && a.Status == http.StatusOK
	}, harness.Timeout, harness.Interval, "Prometheus does not start")
	return m
}

// get sends a request to Prometheus's API and decodes the data of the response.
func (m *monitor) get(path string, data any) error {
	a, err := m.p.Do(http.MethodGet, m.url+path, "")
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(a.Body), &answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return nil
}

// series returns how many series a query has now.
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

// await waits until the alert fires, or until it does not. It calls meanwhile, unless nil, before each look.
func (m *monitor) await(alert string, fires bool, meanwhile func()) {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		if meanwhile != nil {
			meanwhile()
		}
		return m.fires(alert) == fires
	}, 3*harness.Timeout, 10*harness.Interval, "%s, firing: %v", alert, !fires)
}
