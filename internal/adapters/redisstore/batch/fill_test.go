package batch

import (
	"fmt"
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// BenchmarkFill_longQueue fills a batch from a queue of 4,000 requests, of as many clients as it has groups but one. So most
// requests find the group of their client, and are taken one by one, since only one of another client would fit.
func BenchmarkFill_longQueue(b *testing.B) {
	const waiting, clients = 4000, script.MaxGroups - 1
	bt := New(Server{Name: "shard-0"}, time.Hour, &Events{})
	defer bt.Stop()
	limits, now := probeGroups("any")[0].Request.Limits, time.Now()
	for i := range waiting {
		it := &item{since: now}
		it.resize(1)
		it.groups[0].Request = ports.TakeRequest{Op: domain.OpTake, Cost: 1, Limits: limits, Key: clientkey.BucketKey(fmt.Sprint("c:", i%clients))}
		bt.queue.push(it)
	}
	requests := 0
	for b.Loop() {
		x := batches.Get().(*batch)
		for bt.fill(x) {
		}
		requests += x.requests.Len()
		for _, it := range x.items {
			bt.queue.push(it)
		}
		x.release()
	}
	b.ReportMetric(float64(requests)/float64(b.N), "requests/batch")
}
