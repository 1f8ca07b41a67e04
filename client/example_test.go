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
	// In a program this is the service's own address: http://localhost:3000.
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
		fmt.Println("no decision: let it pass or not, as suits the request")
	case err != nil:
		fmt.Println(err)
	case r.Allowed:
		fmt.Println("allowed,", r.Remaining, "left")
	default:
		fmt.Println("denied, again in", r.RetryAfter)
	}
	// Output: allowed, 9 left
}
