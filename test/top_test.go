package test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/test/harness"
)

func TestTop_listsLimitedClients(t *testing.T) {
	p := harness.Start(t, harness.Settings{
		"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	for client, n := range map[string]int{"alice": 5, "bob": 3, "carol": 1} {
		for range n {
			p.Resource("X-Client-ID: " + client)
		}
	}
	p.Resource() // without the key, the address is the client
	a := p.MustDo(http.MethodGet, p.Admin+"/v1/top?n=2", "")
	policy := a.JSON(t)["policies"].([]any)[0].(map[string]any)
	assert.Equal(t, "default", policy["policy"])
	assert.InDelta(t, 10, policy["requests"], 0)
	assert.InDelta(t, 4, policy["denials"], 0)
	client := func(key string, count float64) map[string]any {
		return map[string]any{"key": key, "count": count, "error": 0.0}
	}
	assert.Equal(t, []any{client("alice", 3), client("bob", 1)}, policy["by_denials"])
	assert.Equal(t, []any{client("alice", 5), client("bob", 3)}, policy["by_requests"])
	p.Stop()
}
