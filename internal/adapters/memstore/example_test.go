package memstore_test

import (
	"context"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func Example() {
	store, err := memstore.New(memstore.DefaultConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()

	limit, err := domain.NewBucket("burst", 2, 1, time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	req := ports.TakeRequest{
		Op:     domain.OpTake,
		Key:    clientkey.NewBucketKey("default", clientkey.Source{Kind: clientkey.SourceIP}, "192.0.2.1"),
		Limits: []domain.Limit{limit},
		Cost:   1,
	}
	for range 3 {
		r := ports.Take(context.Background(), store, req)
		fmt.Println(r.Verdict == domain.Allowed, limit.Remaining(r.States[0]))
	}
	// Output:
	// true 1
	// true 0
	// false 0
}
