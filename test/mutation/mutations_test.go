package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the mutations take out is still there. Whether the tests notice takes minutes, and is for `make mutation`.
func TestMutations_areOfTheCodeAsItIs(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutations {
		require.False(t, names[m.name], m.name)
		names[m.name] = true
		text, err := os.ReadFile(filepath.Join("..", "..", m.file))
		require.NoError(t, err, m.name)
		mutated, err := m.mutate(text)
		if assert.NoError(t, err, m.name) {
			assert.NotEqual(t, string(text), string(mutated), m.name)
		}
	}
}
