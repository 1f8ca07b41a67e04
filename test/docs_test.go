package test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var updateDocs = flag.Bool("docs.update", false, "write what the commands print into the examples of the documentation")

// TestDocs_examples holds the documentation to what the service does: every YAML file in it is a policy file that loads,
// and every command in it prints what is shown.
func TestDocs_examples(t *testing.T) {
	for _, name := range []string{"policies.md", "simulate.md"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("..", "docs", name)
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			d := document{t: t, dir: t.TempDir()}
			got := fence.ReplaceAllStringFunc(string(text), d.block)
			assert.Positive(t, d.files)
			assert.Positive(t, d.commands)
			if *updateDocs {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644)) //nolint:gosec // as git has it
				return
			}
			assert.Equal(t, string(text), got, "go test ./test -run TestDocs -docs.update writes it")
		})
	}
}

// fence is a fenced block: its language and its lines.
var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// document is one page, whose files lie in dir.
type document struct {
	t               *testing.T
	dir             string
	files, commands int
}

// block carries a block out, and returns it as it should be.
func (d *document) block(block string) string {
	parts := fence.FindStringSubmatch(block)
	switch language, lines := parts[1], parts[2]; language {
	case "yaml", "log":
		d.save(language, lines)
	case "console":
		return "```console\n" + d.session(lines) + "```"
	}
	return block
}

// save writes a file that names itself in its first line.
func (d *document) save(language, lines string) {
	d.t.Helper()
	first, rest, _ := strings.Cut(lines, "\n")
	name, named := strings.CutPrefix(first, "# ")
	require.True(d.t, named, "the first line names the file: %s", first)
	if language == "yaml" {
		rest = lines // there it is a comment
	}
	require.NoError(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(rest), 0o600))
	d.files++
	if language == "yaml" && name != "wrong.yaml" {
		out, err := d.run("validate", name)
		assert.NoError(d.t, err, out)
	}
}

// session runs the commands of a block, and returns them with what they print.
func (d *document) session(lines string) string {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		args, isCommand := strings.CutPrefix(line, "$ api ")
		if !isCommand {
			continue
		}
		d.commands++
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		out, _ := d.run(words(args)...) // some fail, and say so
		b.WriteString(line + trimmedLines(out))
	}
	return b.String()
}

func (d *document) run(args ...string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), binary, args...)
	cmd.Dir = d.dir
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// words splits a command line at spaces, but within single quotes.
func words(line string) []string {
	var list []string
	for _, match := range regexp.MustCompile(`'([^']*)'|\S+`).FindAllStringSubmatch(line, -1) {
		if strings.HasPrefix(match[0], "'") {
			match[0] = match[1]
		}
		list = append(list, match[0])
	}
	return list
}

// trimmedLines takes the spaces from the ends of lines, which editors take, too.
func trimmedLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}
