//go:build exchanges

package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// leastExchanges is less than half of what the end-to-end tests of the root module record.
const leastExchanges = 5000

// The end-to-end tests of the root module record their exchanges, which are checked here, since the root module does not
// require the library. `make test` runs both.
func TestContract_holdsInTheRecordedExchanges(t *testing.T) {
	folder := os.Getenv(harness.ExchangesVar)
	require.NotEmpty(t, folder, "%s must name the folder with the recorded exchanges", harness.ExchangesVar)
	c, err := openContract()
	require.NoError(t, err)
	file, err := os.Open(filepath.Join(folder, "exchanges.json"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	n := 0
	for decoder := json.NewDecoder(file); ; n++ {
		var e harness.Exchange
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		c.check(t, e)
	}
	t.Logf("%d exchanges", n)
	assert.GreaterOrEqual(t, n, leastExchanges)
}
