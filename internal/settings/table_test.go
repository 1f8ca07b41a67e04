package settings

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the table of settings into docs/configuration.md")

// The table in docs/configuration.md is made from the code. After a change: go test ./internal/settings -run Table -update
func TestTable_documentListsEverySetting(t *testing.T) {
	const path, begin, end = "../../docs/configuration.md", "<!-- settings:begin -->\n", "<!-- settings:end -->\n"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found, "%s has no %q", path, begin)
	table, after, found := strings.Cut(rest, end)
	require.True(t, found, "%s has no %q after it", path, end)

	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+markdownTable()+end+after), 0o644))
		return
	}
	assert.Equal(t, markdownTable(), table, "run: go test ./internal/settings -run Table -update")
}

// markdownTable is what WriteTable lists, in Markdown.
func markdownTable() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n| --- | --- | --- |\n")
	escape := strings.NewReplacer("|", `\|`, "<", `\<`)
	for _, s := range settingsOf(new(Config)) {
		fallback := "empty"
		if s.fallback != "" {
			fallback = "`" + s.fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, fallback, escape.Replace(s.meaning))
	}
	return b.String()
}

func TestWriteTable_listsEverySetting(t *testing.T) {
	var usage strings.Builder
	WriteTable(&usage)
	for _, s := range settingsOf(new(Config)) {
		var row string
		for line := range strings.Lines(usage.String()) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] == s.name {
				row = line
			}
		}
		require.NotEmpty(t, row, s.name)
		assert.Contains(t, row, " "+cmp.Or(s.fallback, "-")+" ", s.name)
		assert.Contains(t, row, " "+s.meaning+"\n", s.name)
	}
}
