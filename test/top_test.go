package test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTop_namesWhoIsLimited(t *testing.T) {
	p := start(t, settings{
		"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	for client, n := range map[string]int{"alice": 5, "bob": 3, "carol": 1} {
		for range n {
			p.resource("X-Client-ID: " + client)
		}
	}
	p.resource() // no key: its address is the client
	a := p.mustAsk(http.MethodGet, p.admin+"/v1/top?n=2", "")
	policy := a.json(t)["policies"].([]any)[0].(map[string]any)
	assert.Equal(t, "default", policy["policy"])
	assert.InDelta(t, 10, policy["requests"], 0)
	assert.InDelta(t, 4, policy["denials"], 0)
	client := func(key string, count float64) map[string]any {
		return map[string]any{"key": key, "count": count, "error": 0.0}
	}
	assert.Equal(t, []any{client("alice", 3), client("bob", 1)}, policy["by_denials"])
	assert.Equal(t, []any{client("alice", 5), client("bob", 3)}, policy["by_requests"])
	p.stop()
}
