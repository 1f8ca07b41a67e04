package replay_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/replay"
)

func TestRecord(t *testing.T) {
	got := replay.Record("/denied", httpload.Answer{
		Status: 429,
		Head: []byte("HTTP/1.1 429 Too Many Requests\r\nDate: today\r\nContent-Type: application/problem+json\r\n" +
			"Content-Length: 2\r\nRatelimit: \"burst\";r=9;t=1"),
		Body: []byte("{}"),
	})
	assert.Equal(t, replay.Answer{
		Path: "/denied", Status: 429, Body: "{}",
		Header: []replay.Field{{"Content-Type", "application/problem+json"}, {"Ratelimit", `"burst";r=9;t=1`}},
	}, got)
}
