//go:build faults

package faults

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// outcomes is where what was seen is kept for whoever makes a table of it.
var outcomes = flag.String("outcomes", "", "write what was measured to JSON files in this folder")

// writeJSON keeps what was measured, if it is asked for.
func writeJSON(t testing.TB, name string, what any) {
	t.Helper()
	if *outcomes == "" {
		return
	}
	text, err := json.MarshalIndent(what, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(*outcomes, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(*outcomes, name+".json"), text, 0o600))
}

// progressf tells whoever waits.
func progressf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
