package test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// folder is the working directory of a test's commands.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T, files map[string]string) folder {
	t.Helper()
	f := folder{t, t.TempDir()}
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600))
	}
	return f
}

// run runs the binary, with stdin as its input.
func (f folder) run(stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(f.t.Context(), harness.Binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = f.dir, harness.Env(), stdin, &out, &errs
	_ = cmd.Run() // the exit code is checked
	require.NotNil(f.t, cmd.ProcessState)
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

const (
	strict  = "policies:\n- name: default\n  limits: [{ rate: 1/m, capacity: 1 }]\n"
	lenient = "policies:\n- name: default\n  limits: [{ rate: 1/m, capacity: 3 }]\n"
)

// accessLog returns n lines of an access log, a second apart.
func accessLog(client string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s - - [24/Nov/2026:12:00:%02d +0000] \"GET / HTTP/1.1\" 200 5\n", client, i)
	}
	return b.String()
}

func TestValidate_exitCodes(t *testing.T) {
	f := newFolder(t, map[string]string{"good.yaml": strict, "bad.yaml": "policies:\n- name: Default\n  limits: []\n"})
	code, stdout, stderr := f.run(nil, "validate", "good.yaml")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "2 in 1m")
	assert.Empty(t, stderr)

	code, stdout, stderr = f.run(nil, "validate", "bad.yaml")
	assert.Equal(t, 1, code)
	assert.Empty(t, stdout)
	assert.Equal(t, 2, strings.Count(stderr, "\n"), stderr)
	assert.Contains(t, stderr, "bad.yaml:2:9: ")
	assert.Contains(t, stderr, "bad.yaml:3:")

	code, _, stderr = f.run(nil, "validate", "none.yaml")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "none.yaml")
}

func TestValidate_hintsAtOtherSpellingsOfASinglePath(t *testing.T) {
	policies := func(paths ...string) string {
		text := "policies:\n"
		for i, path := range paths {
			text += fmt.Sprintf("- name: p%d\n  match: { path: \"%s\" }\n  limits: [{ rate: 1/m, capacity: 1 }]\n", i, path)
		}
		return text
	}
	f := newFolder(t, map[string]string{
		"one.yaml": policies("/login", "/**"), "two.yaml": policies("/api/**", "/ORDERS/*", "/login"), "none.yaml": policies("/api/**", "/**"),
	})
	_, stdout, _ := f.run(nil, "validate", "one.yaml")
	assert.Contains(t, stdout, "\nhint: p0 matches a single path. If your server takes /LOGIN, /login;x=1 or /login%20 for /login, "+
		"such requests avoid the policy: docs/policies.md#match\nvalid: ")
	_, stdout, _ = f.run(nil, "validate", "two.yaml")
	assert.Contains(t, stdout, "\nhint: p1, p2 match single paths. If your server takes /orders/1, /ORDERS/1;x=1 or /ORDERS/1%20 for /ORDERS/1, "+
		"such requests avoid the policy: docs/policies.md#match\nvalid: ")
	_, stdout, _ = f.run(nil, "validate", "none.yaml")
	assert.NotContains(t, stdout, "hint")
}

func TestPolicyTools_wrongUsage(t *testing.T) {
	f := newFolder(t, map[string]string{"p.yaml": strict, "log": ""})
	for _, args := range []string{
		"validate", "validate p.yaml p.yaml", "validate -x p.yaml", "explain", "explain GET /", "explain -policies p.yaml GET",
		"explain -policies p.yaml GET / -client unknown", "explain -policies p.yaml GET / -H nothing", "explain -policies p.yaml GET /%2f",
		"simulate", "simulate log", "simulate -policies p.yaml", "simulate -policies p.yaml -top -1 log", "simulate -policies p.yaml -window soon log",
		"explain -policies p.yaml GET,POST /", "explain -policies p.yaml 127.0.0.1 /",
	} {
		code, stdout, stderr := f.run(nil, strings.Fields(args)...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, stdout, args)
		name, _, _ := strings.Cut(args, " ")
		assert.Regexp(t, "^velocity "+name+": .*; see velocity "+name+" -h\n$", stderr, args)
	}
	for _, name := range []string{"validate", "explain", "simulate"} {
		code, stdout, stderr := f.run(nil, name, "-h")
		assert.Equal(t, 0, code, name)
		assert.Contains(t, stdout, "Usage: velocity "+name, name)
		assert.Empty(t, stderr, name)
	}
}

func TestSimulate_failures(t *testing.T) {
	f := newFolder(t, map[string]string{"p.yaml": strict, "bad.yaml": "policies: 1\n", "log": accessLog("192.0.2.1", 1), "cut.gz": "\x1f\x8b\x08"})
	for args, want := range map[string]string{
		"-policies none.yaml log":                     "none.yaml",
		"-policies bad.yaml log":                      "bad.yaml:1:",
		"-policies p.yaml -compare bad.yaml log":      "bad.yaml:1:",
		"-policies p.yaml none":                       "none",
		"-policies p.yaml cut.gz":                     "cut.gz: after 0 lines: unexpected EOF",
		"-policies p.yaml -window 2h log":             "window: 2h0m0s",
		"-policies p.yaml -html none/page.html log":   "none/page.html",
		"-policies p.yaml -decisions none/d.json log": "none/d.json",
	} {
		code, stdout, stderr := f.run(nil, append([]string{"simulate"}, strings.Fields(args)...)...)
		assert.Equal(t, 1, code, args)
		assert.Empty(t, stdout, args)
		assert.Contains(t, stderr, want, args)
		assert.NotContains(t, stderr, "goroutine", args)
	}
}

// found holds the members of the JSON that tests read.
type found struct {
	Read    struct{ Lines, Malformed int }
	Reports []struct {
		Requests, Denied int
		Policies         []struct {
			Name    string
			Denied  int
			Clients int
			Worst   []struct {
				Client string
				Denied int
			} `json:"worst_clients"`
		}
		Series struct {
			WidthSeconds int `json:"width_seconds"`
			Bins         []struct{ Allowed, Denied int }
		}
	}
	Changes struct {
		NewlyDenied  int `json:"newly_denied"`
		NewlyAllowed int `json:"newly_allowed"`
	}
}

func TestSimulate_everyFormOfOutput(t *testing.T) {
	f := newFolder(t, map[string]string{
		"strict.yaml": strict, "lenient.yaml": lenient, "log": accessLog("192.0.2.1", 5) + "nonsense\n" + accessLog("192.0.2.2", 1),
	})
	code, stdout, stderr := f.run(nil, "simulate", "-policies", "strict.yaml", "log", "-compare", "lenient.yaml", "-json",
		"-html", "page.html", "-decisions", "decisions.json", "-top", "1")
	require.Equal(t, 0, code, stderr)
	assert.Empty(t, stderr, "no bar where there is no terminal")

	var got found
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	assert.Equal(t, 7, got.Read.Lines)
	assert.Equal(t, 1, got.Read.Malformed)
	require.Len(t, got.Reports, 2)
	assert.Equal(t, []int{4, 2}, []int{got.Reports[0].Denied, got.Reports[1].Denied})
	p := got.Reports[0].Policies[0]
	assert.Equal(t, 2, p.Clients)
	require.Len(t, p.Worst, 1)
	assert.Equal(t, "192.0.2.1", p.Worst[0].Client)
	assert.Equal(t, 1, got.Reports[0].Series.WidthSeconds)
	assert.Len(t, got.Reports[0].Series.Bins, 5)
	assert.Equal(t, 2, got.Changes.NewlyAllowed)
	assert.Equal(t, 0, got.Changes.NewlyDenied)

	page, err := os.ReadFile(filepath.Join(f.dir, "page.html"))
	require.NoError(t, err)
	for _, want := range []string{"<!doctype html>", "strict.yaml", "lenient.yaml", "What changes", "192.0.2.1", "<svg", "1 line is no request"} {
		assert.Contains(t, string(page), want)
	}
	decisions, err := os.ReadFile(filepath.Join(f.dir, "decisions.json"))
	require.NoError(t, err)
	lines := strings.SplitAfter(strings.TrimSuffix(string(decisions), "\n"), "\n")
	require.Len(t, lines, 12, "six requests, two files")
	assert.JSONEq(t, `{"file":"strict.yaml","log":"log","line":1,"time":"2026-11-24T12:00:00Z","policy":"default","client":"192.0.2.1",
		"outcome":"allowed","limit":1,"remaining":0,"retry_after_ms":0}`, lines[0])
	assert.JSONEq(t, `{"file":"strict.yaml","log":"log","line":2,"time":"2026-11-24T12:00:01Z","policy":"default","client":"192.0.2.1",
		"outcome":"denied","limit":1,"remaining":0,"retry_after_ms":59000,"denied_by":["default"]}`, lines[4])
}

func TestSimulate_remarksOnTheLogFollowTheResults(t *testing.T) {
	f := newFolder(t, map[string]string{
		"p.yaml": "policies:\n- name: api\n  match: { path: \"/**\" }\n  key: header:X-API-Key\n  limits: [{ rate: 1/m, capacity: 1 }]\n",
		"two.yaml": "policies:\n- name: api\n  key: [ip, \"cookie:sid\"]\n  limits:\n  - { name: all, rate: 1/m, capacity: 9 }\n" +
			"  - { name: user, key: \"query:user\", rate: 1/m, capacity: 9 }\n",
		"log":  accessLog("192.0.2.1", 2) + `192.0.2.9 - - [24/Nov/2026:12:00:05 +0000] "\x16\x03\x01" 400 5` + "\n",
		"keys": `{"msec":"1795521600","remote_addr":"192.0.2.1","request":"GET / HTTP/1.1","http_x_api_key":"k"}` + "\n",
	})
	code, stdout, stderr := f.run(nil, "simulate", "-policies", "p.yaml", "log")
	require.Equal(t, 0, code, stderr)
	want := `
1 line is no request
  log:3: the request has no method and path: 192.0.2.9 - - [24/Nov/2026:12:00:05 +0000] "\x16\x03\x01" 400 5
api: 2 of 2 requests have no header:x-api-key in the log, counted by address
`
	assert.True(t, strings.HasSuffix(stdout, want), stdout)

	_, stdout, _ = f.run(nil, "simulate", "-policies", "p.yaml", "-compare", "two.yaml", "log", "keys")
	assert.Contains(t, stdout, "\np.yaml: api: 2 of 3 requests have no header:x-api-key in the log, counted by address\n"+
		"two.yaml: api: 3 of 3 requests have no cookie:sid or query:user in the log, counted by address\n")
	_, stdout, _ = f.run(nil, "simulate", "-policies", "p.yaml", "keys")
	assert.NotContains(t, stdout, "in the log")
}

func TestSimulate_standardInputAndGzip(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := io.WriteString(z, accessLog("192.0.2.1", 3))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	f := newFolder(t, map[string]string{"p.yaml": strict, "log": accessLog("192.0.2.1", 2)})
	code, stdout, stderr := f.run(&packed, "simulate", "-policies", "p.yaml", "-", "log")
	require.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "5 lines of 2 logs")
	assert.Contains(t, stdout, "5 requests from 2026-11-24T12:00:00Z to 2026-11-24T12:00:02Z; 4 would not pass (80.00%)")
}

func TestSimulate_namesAHostOnlyWhereAPolicyAsksForOne(t *testing.T) {
	f := newFolder(t, map[string]string{
		"p.yaml": strict, "host.yaml": "policies:\n- name: a\n  match: { host: a.example }\n  limits: [{ rate: 1/m, capacity: 1 }]\n",
		"log": accessLog("192.0.2.1", 2),
	})
	_, stdout, _ := f.run(nil, "simulate", "-policies", "p.yaml", "log")
	assert.NotContains(t, stdout, "-host")
	_, stdout, _ = f.run(nil, "simulate", "-policies", "host.yaml", "log")
	assert.Contains(t, stdout, "2 requests name no host")
	assert.Contains(t, stdout, "2 matched no policy")
	_, stdout, _ = f.run(nil, "simulate", "-policies", "host.yaml", "-host", "A.example:80", "log")
	assert.Contains(t, stdout, "1 would not pass (50.00%), 0 matched no policy")
}

func TestSimulate_anInterruptEndsTheWaitForInput(t *testing.T) {
	f := newFolder(t, map[string]string{"p.yaml": strict, "log": accessLog("192.0.2.1", 2)})
	cmd := exec.CommandContext(t.Context(), harness.Binary, "simulate", "-policies", "p.yaml", "-decisions", "d.json", "log", "-")
	var stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = f.dir, harness.Env(), &stderr
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { // then it catches signals
		_, err := os.Stat(filepath.Join(f.dir, "d.json"))
		return err == nil
	}, harness.Timeout, harness.Interval)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait() // the exit code is checked; Wait closes stdin
	assert.Equal(t, 1, cmd.ProcessState.ExitCode())
	assert.Contains(t, stderr.String(), "interrupted")
}
