package secret_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/secret"
)

func TestSecret_isNeverPrinted(t *testing.T) {
	token := secret.Secret("hunter2")
	cfg := struct{ Token secret.Secret }{token}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		assert.NotContains(t, fmt.Sprintf(verb, token), "hunter2", verb)
		assert.NotContains(t, fmt.Sprintf(verb, cfg), "hunter2", verb)
		assert.NotContains(t, fmt.Sprintf(verb, &cfg), "68756e74657232", verb)
	}
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "hunter2")
	assert.Contains(t, string(text), "[redacted]")
	assert.Empty(t, secret.Secret("").String())
}
