package redisstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// BenchmarkOverrides_poll reports the CPU time that a server spends on 20 nodes that ask it for changes of overrides: of each
// question, and of one core, both less what the server spends without nodes. An operation is a second.
//
//	go test ./internal/adapters/redisstore -run '^$' -bench Overrides_poll -benchtime 20x
func BenchmarkOverrides_poll(b *testing.B) {
	server := redistest.Start(b)
	c := plainClient(b, server.Addr)
	spent := func() float64 { return figure(b, c, "used_cpu_user:") + figure(b, c, "used_cpu_sys:") }
	polls := func() float64 { return figure(b, c, "cmdstat_evalsha:calls=") }

	before := spent()
	time.Sleep(5 * time.Second)
	idle := (spent() - before) / 5
	for range 20 {
		n := newNode(b, redisstore.DefaultConfig(server.Addr), ports.DefaultOverrideBounds)
		require.Eventually(b, func() bool { return n.OverridesStatus().Known }, patient, time.Millisecond)
	}
	time.Sleep(time.Second) // the nodes have connected
	before, asked := spent(), polls()
	for b.Loop() {
		time.Sleep(time.Second)
	}
	used := spent() - before - idle*b.Elapsed().Seconds()
	b.ReportMetric(used/(polls()-asked)*1e6, "us/poll")
	b.ReportMetric(used/b.Elapsed().Seconds()*100, "%-of-a-core")
}

// BenchmarkOverrides_memory reports what 100,000 overrides that all have different limits take on a server.
//
//	go test ./internal/adapters/redisstore -run '^$' -bench Overrides_memory -benchtime 1x
func BenchmarkOverrides_memory(b *testing.B) {
	const count = 100_000
	for b.Loop() {
		server := redistest.Start(b)
		c := plainClient(b, server.Addr)
		n := newNode(b, redisstore.DefaultConfig(server.Addr), ports.DefaultOverrideBounds)
		require.Eventually(b, func() bool { return n.OverridesStatus().Known }, patient, time.Millisecond)
		before := figure(b, c, "used_memory:")
		for i := range count { // the node writes to the server what the server lacks
			client := fmt.Sprintf("customer-%08d", i)
			n.Overrides().Merge(override.Entry{Key: clientKey(client), Version: domain.Instant(1_800_000_000_000_000 + i), Value: override.Value{
				Effect: fmt.Sprintf(`[{"name":"burst","rate":"%d/s","capacity":%d}]`, 1+i, 100+i), Client: client, Note: fmt.Sprint("ticket ", i),
			}})
		}
		require.Eventually(b, func() bool { return c.HLen(b.Context(), "velocity:{overrides}").Val() > count }, time.Minute, 10*time.Millisecond)
		b.ReportMetric((figure(b, c, "used_memory:")-before)/1e6, "MB")
	}
}

// figure returns a number of a server's statistics: the one after this text, or 0.
func figure(b *testing.B, c *redis.Client, after string) float64 {
	b.Helper()
	text, err := c.Info(b.Context(), "everything").Result()
	require.NoError(b, err)
	_, rest, found := strings.Cut(text, "\n"+after)
	if !found {
		return 0
	}
	number := 0.0
	_, err = fmt.Sscanf(rest, "%g", &number)
	require.NoError(b, err)
	return number
}
