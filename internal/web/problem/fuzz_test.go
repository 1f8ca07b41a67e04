package problem

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzProblem shows that no path and no text makes an answer that is not JSON, or that a browser could take for markup.
func FuzzProblem(f *testing.F) {
	f.Add("/api/resource", "key: must not be empty")
	f.Add("/<script>\xff\"", "\x00\"\\")
	f.Add("/%", `"`)
	f.Add("*", `\`)
	f.Fuzz(func(t *testing.T, path, detail string) {
		p := Problem{Status: 400, Detail: detail}
		var got map[string]any
		require.NoError(t, json.Unmarshal(p.AppendJSON(nil, "id", path, 3), &got))
		assert.NotContains(t, got["instance"], "<")
		assert.NotContains(t, got["instance"], `"`)
	})
}
