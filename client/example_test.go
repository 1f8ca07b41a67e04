package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/velocity-limiter/velocity/client"
)

func Example() {
	// In a program this is the address of the service, such as http://localhost:3000.
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, allowed)
	}))
	defer service.Close()

	c, err := client.New(client.Config{URL: service.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	r, err := c.Check(context.Background(), client.Check{Key: "alice", Cost: client.Tokens(1)})
	switch {
	case errors.Is(err, client.ErrUnavailable):
		fmt.Println("no decision: the program chooses whether the request may pass")
	case err != nil:
		fmt.Println(err)
	case r.Allowed:
		fmt.Println("allowed,", r.Remaining, "left")
	default:
		fmt.Println("denied, retry in", r.RetryAfter)
	}
	// Output: allowed, 9 left
}

func ExampleClient_Release() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/release" {
			_, _ = io.WriteString(w, `{"released":true}`)
			return
		}
		_, _ = io.WriteString(w, granted("k5q3n7"))
	}))
	defer service.Close()
	c, err := client.New(client.Config{URL: service.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx := context.Background() // of the request
	r, err := c.Check(ctx, client.Check{Key: "alice", Cost: client.Tokens(1000)})
	if err != nil || !r.Allowed {
		fmt.Println("not now")
		return
	}
	used := int64(812) // known when the request has ended
	released, err := c.Release(context.WithoutCancel(ctx), r.Permit, client.Tokens(used))
	fmt.Println(released, err)
	// Output: true <nil>
}

// A check takes an estimate. The difference to what the request cost in the end is charged or refunded.
func ExampleClient_Charge() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, allowed)
		if r.URL.Path != "/v1/check" {
			fmt.Println(r.URL.Path)
		}
	}))
	defer service.Close()
	c, err := client.New(client.Config{URL: service.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	const estimate = 1000
	ctx := context.Background() // of the request
	r, err := c.Check(ctx, client.Check{Key: "alice", Cost: client.Tokens(estimate)})
	if err != nil || !r.Allowed {
		fmt.Println("not now")
		return
	}
	used := int64(1217) // known when the request has ended
	if r.Store == "fallback" {
		return // no store gave the estimate
	}
	settled := client.Check{Key: "alice", TakenAt: r.TakenAt} // so that a quota whose period has ended is left alone
	switch ctx := context.WithoutCancel(ctx); {
	case used > estimate:
		settled.Cost = client.Tokens(used - estimate)
		_, err = c.Charge(ctx, settled)
	case used < estimate:
		settled.Cost = client.Tokens(estimate - used)
		_, err = c.Refund(ctx, settled)
	}
	fmt.Println(err)
	// Output:
	// /v1/charge
	// <nil>
}
