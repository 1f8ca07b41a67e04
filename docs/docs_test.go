// Package docs tests the documentation: it has no code of its own.
package docs

import (
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pages are the project's texts, by path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	list := make(map[string]string)
	root := os.DirFS("..")
	require.NoError(t, fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := fs.ReadFile(root, path)
			list[path] = string(text)
			return err
		}
		return nil
	}))
	require.Contains(t, list, "README.md")
	require.Contains(t, list, "docs/operating.md")
	return list
}

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"`)
	fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```")
	code   = regexp.MustCompile("`[^`\n]*`")
)

func TestLinks_leadSomewhere(t *testing.T) {
	for page, text := range pages(t) {
		text = code.ReplaceAllString(fenced.ReplaceAllString(text, ""), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, err := url.Parse(match[1] + match[2])
			if !assert.NoError(t, err, page) || target.IsAbs() {
				continue
			}
			path := page
			if target.Path != "" {
				path = filepath.Join(filepath.Dir(page), target.Path)
			}
			_, err = os.Stat(filepath.Join("..", path))
			assert.NoError(t, err, "%s links to %s", page, target)
			if target.Fragment != "" && filepath.Ext(path) == ".md" {
				assert.True(t, hasHeading(t, path, target.Fragment), "%s links to %s, which has no such heading", page, target)
			}
		}
	}
}

// hasHeading reports whether a page has a heading whose anchor is this, as GitHub makes it.
func hasHeading(t *testing.T, path, anchor string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	for line := range strings.Lines(fenced.ReplaceAllString(string(text), "")) {
		if heading := strings.TrimLeft(line, "#"); heading != line && anchorOf(heading) == anchor {
			return true
		}
	}
	return false
}

func anchorOf(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(heading))
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
			return r
		}
		return -1
	}, heading)
}

func TestSnippets_areShell(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, match := range fenced.FindAllStringSubmatch(text, -1) {
			if match[1] != "sh" && match[1] != "bash" {
				continue
			}
			n++
			cmd := exec.CommandContext(t.Context(), "bash", "-n")
			cmd.Stdin = strings.NewReader(match[2])
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, "%s: %s\n%s", page, out, match[2])
		}
	}
	assert.Positive(t, n)
}

// The make targets and the scripts of a snippet exist.
func TestSnippets_nameExistingTargets(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	target := regexp.MustCompile(`(?m)^(?:[A-Z_]+=\S+ )*make ([a-z-]+)`)
	script := regexp.MustCompile(`(?m)(?:^|\s)(scripts/[\w.-]+)`)
	for page, text := range pages(t) {
		for _, match := range fenced.FindAllStringSubmatch(text, -1) {
			for _, m := range target.FindAllStringSubmatch(match[2], -1) {
				assert.Contains(t, string(makefile), "\n"+m[1]+":", page)
			}
			for _, m := range script.FindAllStringSubmatch(match[2], -1) {
				_, err := os.Stat(filepath.Join("..", m[1]))
				assert.NoError(t, err, page)
			}
		}
	}
}

// The files that architecture.md names exist, and a key passes at most 30 of them.
func TestArchitecture_namesExistingFiles(t *testing.T) {
	text := read(t, "architecture.md")
	files := regexp.MustCompile("`([\\w./]+/[\\w./]+\\.(?:go|lua|yaml|json))`").FindAllStringSubmatch(text, -1)
	require.NotEmpty(t, files)
	for _, m := range files {
		assert.FileExists(t, filepath.Join("..", m[1]))
	}
	steps := regexp.MustCompile("[|,] (\\d+) `").FindAllStringSubmatch(text, -1)
	for i, m := range steps {
		assert.Equal(t, strconv.Itoa(i+1), m[1], "the files of a key's way are numbered")
	}
	assert.LessOrEqual(t, len(steps), 30)
	assert.Greater(t, len(steps), 20)
}

// README is a front page: short, and with the first command on the first screen.
func TestREADME_isAFrontPage(t *testing.T) {
	text := pages(t)["README.md"]
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	assert.LessOrEqual(t, len(lines), 200, "lines")
	assert.Contains(t, lines[:25], "```sh")
	assert.Contains(t, strings.Join(lines[:25], "\n"), "\ngo run ./cmd/api ")
	for _, sentence := range []string{
		"# Velocity: Distributed High-Performance API Rate Limiter Backend\n",
		"\n> Ensuring system stability via distributed concurrency control\n",
		"\ndocker-compose up --build ",
		"**Atomic Distributed State Management.**", "**Horizontal Scalability.**", "**High-Concurrency Performance.**",
		"\nFor a deep dive into the architectural decisions, atomicity proofs, and sharding logic, please refer to the [Technical Report](REPORT.md).\n",
	} {
		assert.Contains(t, text, sentence)
	}
}

func TestIndex_listsEveryPage(t *testing.T) {
	index := pages(t)["docs/README.md"]
	found, err := filepath.Glob("*.md")
	require.NoError(t, err)
	for _, page := range found {
		if page != "README.md" {
			assert.Contains(t, index, "]("+page+")")
		}
	}
}

// Each alert links to its section of operating.md, which shows the severity and the query of the rule.
func TestRunbooks_areTheRules(t *testing.T) {
	text, err := os.ReadFile("../deploy/prometheus/velocity.rules.yml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	page, n := pages(t)["docs/operating.md"], 0
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			n++
			url, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
			assert.True(t, strings.HasSuffix(url, "/docs/operating.md"), "%s: %s", rule.Alert, url)
			assert.True(t, hasHeading(t, "docs/operating.md", anchor), "%s: no heading %s", rule.Alert, anchor)
			query := "`" + strings.Join(strings.Fields(rule.Expr), " ") + "`"
			if rule.For != "" {
				query += " for " + rule.For
			}
			row := "\n| `" + rule.Alert + "` | " + rule.Labels["severity"] + " | " + query + " | "
			assert.Contains(t, page, row)
		}
	}
	assert.Positive(t, n)
}

func TestSnippets_areJSON(t *testing.T) {
	for page, text := range pages(t) {
		for _, match := range fenced.FindAllStringSubmatch(text, -1) {
			if match[1] == "json" {
				assert.True(t, json.Valid([]byte(match[2])), "%s: %s", page, match[2])
			}
		}
	}
}

// Go snippets compile. One that is not a whole program is the body of a function that has ctx, token and what a page
// declares before it. The lines of embedding.md, some of which use other packages, are in tests: see TestDocs_goSnippets.
func TestSnippets_areGo(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		if page == "docs/embedding.md" {
			continue
		}
		for _, match := range fenced.FindAllStringSubmatch(text, -1) {
			if match[1] != "go" {
				continue
			}
			n++
			file := filepath.Join(t.TempDir(), "snippet.go")
			require.NoError(t, os.WriteFile(file, []byte(asProgram(match[2])), 0o600))
			build := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-o", os.DevNull, file)
			build.Dir = ".."
			out, _ := build.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				harmless := strings.HasPrefix(line, "#") || strings.HasPrefix(line, "go: downloading ")
				if !harmless && !strings.Contains(line, "declared and not used") {
					assert.Fail(t, page, "%s\n%s", line, match[2])
				}
			}
		}
	}
	assert.Positive(t, n)
}

// asProgram completes a snippet with what it leaves out.
func asProgram(snippet string) string {
	if strings.HasPrefix(snippet, "package ") {
		return snippet
	}
	var imports strings.Builder
	for name, path := range map[string]string{
		"client": "github.com/velocity-limiter/velocity/client", "velocity": "github.com/velocity-limiter/velocity",
		"velocityhttp": "github.com/velocity-limiter/velocity/velocityhttp", "errors": "errors", "fmt": "fmt", "log": "log",
		"http": "net/http", "time": "time",
	} {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(snippet) {
			imports.WriteString("import \"" + path + "\"\n")
		}
	}
	return "package main\n\nimport \"context\"\n" + imports.String() +
		"\nfunc main() { snippet(context.Background(), \"\") }\n\nfunc snippet(ctx context.Context, token string) {\n" + snippet + "}\n"
}

// A file that is mounted alone stays the old one in the container when an editor replaces it, so the examples mount folders for the
// files that Velocity reads again.
func TestExamples_mountFoldersForVelocity(t *testing.T) {
	examples, err := filepath.Glob("../deploy/*/compose.yaml")
	require.NoError(t, err)
	mounts := 0
	for _, path := range examples {
		var file struct {
			Services map[string]struct{ Volumes []string }
		}
		require.NoError(t, yaml.Unmarshal([]byte(read(t, path)), &file), path)
		for _, volume := range file.Services["velocity"].Volumes {
			mounts++
			source, _, _ := strings.Cut(volume, ":")
			assert.DirExists(t, filepath.Join(filepath.Dir(path), source))
		}
	}
	assert.GreaterOrEqual(t, mounts, 2)
}

// Every metric that the page lists has a panel on the dashboard, but for those that only alerts need.
func TestDashboard_showsTheMetrics(t *testing.T) {
	forAlerts := []string{
		"velocity_envoy_config_reloads_total", "velocity_envoy_config_stale", "velocity_policy_reloads_total", "velocity_policy_file_stale",
		"velocity_shard_clock_skew_seconds", "velocity_token_key_loads_total", "velocity_shard_breaker_state", "velocity_shard_breaker_openings_total",
		"velocity_shard_batch_groups",
	}
	page, err := os.ReadFile("operating.md")
	require.NoError(t, err)
	board, err := os.ReadFile("../deploy/grafana/dashboards/velocity.json")
	require.NoError(t, err)
	listed := 0
	for row := range strings.Lines(string(page)) {
		if !strings.HasPrefix(row, "| `velocity_") {
			continue
		}
		names, _, _ := strings.Cut(row[2:], " | ")
		for _, name := range regexp.MustCompile(`velocity_[a-z_]+`).FindAllString(names, -1) {
			listed++
			assert.NotEqual(t, slices.Contains(forAlerts, name), strings.Contains(string(board), name), name)
		}
	}
	assert.Greater(t, listed, 30)
}
