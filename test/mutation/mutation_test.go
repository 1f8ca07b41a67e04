// Package mutation removes the handling of each failure from a copy of the source tree, one at a time, and runs the tests
// that must then fail. If they pass, the mutation has survived, and the handling is not tested. A mutation whose text is
// no longer in the source is an error.
package mutation

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mutation removes the handling of one failure: it replaces the text from in a file by the text to. The tests must fail.
type mutation struct {
	name     string
	file     string
	from, to string
	pkg      string
	tests    string // a pattern of go test -run
}

// root is the repository.
const root = "../.."

// The texts that the mutations replace are in the source.
func TestMutations_matchTheCode(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutations {
		require.False(t, names[m.name], m.name)
		names[m.name] = true
		text, err := os.ReadFile(filepath.Join(root, m.file))
		require.NoError(t, err, m.name)
		mutated, err := m.mutate(text)
		if assert.NoError(t, err, m.name) {
			assert.NotEqual(t, string(text), string(mutated), m.name)
		}
	}
}

// mutate returns the text of the file with the mutation.
func (m *mutation) mutate(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(m.from)); n != 1 {
		return nil, fmt.Errorf("%s holds the text %d times, not once: %q", m.file, n, m.from)
	}
	return bytes.Replace(text, []byte(m.from), []byte(m.to), 1), nil
}
