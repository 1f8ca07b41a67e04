package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the table of settings into the README")

// The README's table of settings is the code's. After a change: go test ./cmd/api -run README -update
func TestREADME_listsEverySetting(t *testing.T) {
	const path, begin, end = "../../README.md", "<!-- settings:begin -->\n", "<!-- settings:end -->\n"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found, "the README has no %q", begin)
	table, after, found := strings.Cut(rest, end)
	require.True(t, found, "the README has no %q after it", end)

	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+settingsMarkdown()+end+after), 0o644))
		return
	}
	assert.Equal(t, settingsMarkdown(), table, "run: go test ./cmd/api -run README -update")
}

func TestUsage_listsTheSettingsOfTheREADME(t *testing.T) {
	var usage strings.Builder
	printUsage(&usage)
	for _, s := range settingsOf(&config{}) {
		var row string
		for line := range strings.Lines(usage.String()) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] == s.name {
				row = line
			}
		}
		require.NotEmpty(t, row, s.name)
		assert.Contains(t, row, " "+orDash(s.fallback)+" ", s.name)
		assert.Contains(t, row, " "+s.meaning+"\n", s.name)
	}
}
