package test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

var updateDocs = flag.Bool("docs.update", false, "write what the commands print into the examples of the documentation")

// Every YAML file in the documentation is a policy file that loads, and every command prints what is shown.
func TestDocs_examples(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	examples := 0
	for _, path := range append(pages, "../README.md") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			d := document{t: t, dir: t.TempDir()}
			got := fence.ReplaceAllStringFunc(string(text), d.block)
			examples += d.files + d.commands
			if *updateDocs {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644)) //nolint:gosec // the mode in git
				return
			}
			assert.Equal(t, string(text), got, "go test ./test -run TestDocs -docs.update writes it")
		})
	}
	assert.Greater(t, examples, 30)
}

// TestDocs_quickStart: what README's first command starts answers its second one as README says.
func TestDocs_quickStart(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	curl := regexp.MustCompile(`(?m)^curl -i '.*?'`).FindString(string(text))
	require.NotEmpty(t, curl)
	d := document{t: t}
	answers := strings.Split(d.curl(curl), "HTTP/1.1 ")[1:]
	require.Len(t, answers, 20)
	denials := 0
	for i, answer := range answers {
		if status := answer[:3]; i < 10 || status != "429" {
			assert.Equal(t, "200", status, "request %d", i+1)
			continue
		}
		denials++
		for _, line := range regexp.MustCompile("(?s)```http\nHTTP/1.1 (.*?)```").FindStringSubmatch(string(text))[1:] {
			for shown := range strings.Lines(line) {
				// Go's client spells the names of headers in its own way.
				assert.Contains(t, strings.ToLower(strings.ReplaceAll(answer, "\r\n", "\n")), strings.ToLower(shown))
			}
		}
	}
	assert.Positive(t, denials)
}

// fence is a fenced block: its language and its lines.
var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// TestDocs_commandsExist: each command that a snippet runs exists, with its flags.
func TestDocs_commandsExist(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	command := regexp.MustCompile(`(?m)(?:^|[=|] ?|\S=\S+ )velocity ([a-z]+)(.*)$`)
	flags := regexp.MustCompile(` (-[a-z-]+)`)
	n := 0
	for _, path := range append(pages, "../README.md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
			if block[1] != "sh" {
				continue
			}
			for _, found := range command.FindAllStringSubmatch(block[2], -1) {
				n++
				d := document{t: t, dir: t.TempDir()}
				help, err := d.run(found[1], "-h")
				require.NoError(t, err, "%s: %s", path, found[0])
				for _, flag := range flags.FindAllStringSubmatch(found[2], -1) {
					assert.Contains(t, help, flag[1]+" ", "%s: %s", path, found[0])
				}
			}
		}
	}
	assert.Greater(t, n, 5)
}

// document is one page. Its files are written to dir. Its curl commands ask one service, which is started by the first of them.
type document struct {
	t               *testing.T
	dir             string
	files, commands int
	service         *harness.Process
}

// block saves a file or runs commands, and returns the block with what they print.
func (d *document) block(block string) string {
	parts := fence.FindStringSubmatch(block)
	switch language, lines := parts[1], parts[2]; language {
	case "yaml", "log":
		d.save(language, lines)
	case "text":
		if strings.HasPrefix(lines, "# ") { // a file
			d.save(language, lines)
		}
	case "console":
		return "```console\n" + d.session(lines) + "```"
	}
	return block
}

// save writes a file, whose name is in its first line.
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
		command, isCommand := strings.CutPrefix(line, "$ ")
		if !isCommand {
			continue
		}
		d.commands++
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		var out string
		if strings.HasPrefix(command, "curl ") {
			out = d.curl(command)
		} else {
			args, ours := strings.CutPrefix(command, "velocity ")
			require.True(d.t, ours, command)
			out, _ = d.run(words(args)...) // some fail, and say so
		}
		b.WriteString(line + trimmedLines(out))
	}
	if times.ReplaceAllString(b.String(), "") == times.ReplaceAllString(lines, "") {
		return lines
	}
	return b.String()
}

// times are what differs from run to run: by how far a bucket has been refilled meanwhile, when tokens were taken, and ids.
var times = regexp.MustCompile(`(_after_ms|taken_at_us)":[1-9]\d*|"request_id":"[0-9a-f]{32}"`)

// curl sends the requests of a curl command to a service with default settings, and returns what curl would print. It knows
// the options that the documents use, so that the tests do not need curl.
func (d *document) curl(command string) string {
	d.t.Helper()
	if d.service == nil {
		d.service = harness.Start(d.t, nil)
	}
	var url, body string
	var showHead bool
	header := http.Header{}
	for args := words(command)[1:]; len(args) > 0; args = args[1:] {
		switch option := args[0]; option {
		case "-s":
		case "-i":
			showHead = true
		case "-H":
			name, value, _ := strings.Cut(args[1], ": ")
			header.Set(name, value)
			args = args[1:]
		case "-d":
			body, args = args[1], args[1:]
		default:
			require.NotEqual(d.t, byte('-'), option[0], command)
			url = d.service.URL + option[strings.Index(option, "localhost:3000")+len("localhost:3000"):]
		}
	}
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	times := 1
	if glob := regexp.MustCompile(`\[1-(\d+)\]`).FindStringSubmatch(url); glob != nil { // one request for each number
		times, _ = strconv.Atoi(glob[1])
	}
	var out strings.Builder
	for range times {
		req, err := http.NewRequestWithContext(d.t.Context(), method, url, strings.NewReader(body))
		require.NoError(d.t, err)
		req.Header = header
		resp, err := http.DefaultClient.Do(req)
		require.NoError(d.t, err, command)
		if showHead {
			fmt.Fprintf(&out, "%s %s\r\n", resp.Proto, resp.Status)
			require.NoError(d.t, resp.Header.Write(&out))
			out.WriteString("\r\n")
		}
		_, err = io.Copy(&out, resp.Body)
		require.NoError(d.t, errors.Join(err, resp.Body.Close()))
	}
	return out.String()
}

func (d *document) run(args ...string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), harness.Binary, args...)
	cmd.Dir = d.dir
	cmd.Env = harness.Env()
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

// trimmedLines removes the spaces at the ends of lines, as editors do.
func trimmedLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}
