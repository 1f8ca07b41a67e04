//go:build faults

package faults

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// outcomes is where what was seen is kept for whoever makes a table of it.
var outcomes = flag.String("outcomes", "", "write what was seen of each fault to a file in this folder")

func writeOutcome(t *testing.T, o *outcome) {
	t.Helper()
	if *outcomes == "" {
		return
	}
	text, err := json.MarshalIndent(o, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(*outcomes, slug(o.Kind)+".json"), text, 0o600))
}
