// Package docs tests the documentation: it has no code of its own.
package docs

import (
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

// Whatever a snippet tells an operator to run must be there.
func TestSnippets_nameWhatThereIs(t *testing.T) {
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
				assert.FileExists(t, filepath.Join("..", m[1]), page)
			}
		}
	}
}
