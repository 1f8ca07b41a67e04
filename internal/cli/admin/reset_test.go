package admin

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

func TestConfirmed_onlyYesConfirms(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "Yes\n": true, " YES ": true, "n\n": false, "\n": false, "": false, "yeah\n": false, "no\ny\n": false,
	} {
		assert.Equal(t, want, confirmed(strings.NewReader(answer), io.Discard, "?"), "%q", answer)
	}
}

func TestIsTerminal_falseForWhatIsNone(t *testing.T) {
	assert.False(t, command.IsTerminal(strings.NewReader("y\n")))
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	assert.False(t, command.IsTerminal(null))
	require.NoError(t, null.Close())
}
