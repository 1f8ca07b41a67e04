package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// Two hundred goroutines share one client, which batches their checks. Each of the twenty keys gets exactly ten tokens.
func TestClient_concurrentChecksGetExactlyTheCapacity(t *testing.T) {
	const keys, goroutines, capacity = 20, 200, 10
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": redistest.Start(t).Addr, "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": fmt.Sprint(capacity),
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_API_TOKEN": "token",
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	})
	c, err := client.New(client.Config{
		URL: p.URL, Token: "token", Timeout: harness.Timeout, HTTPClient: p.Client, // its exchanges are recorded
	})
	require.NoError(t, err)
	var (
		start, wg sync.WaitGroup
		allowed   [keys]atomic.Int64
	)
	start.Add(1)
	for range goroutines {
		wg.Go(func() {
			start.Wait()
			for k := range keys {
				ok, err := c.Allow(t.Context(), fmt.Sprint("key-", k))
				if assert.NoError(t, err) && ok {
					allowed[k].Add(1)
				}
			}
		})
	}
	start.Done()
	wg.Wait()
	for k := range keys {
		assert.EqualValues(t, capacity, allowed[k].Load(), "key %d", k)
	}

	r, err := c.Refund(t.Context(), client.Check{Key: "key-0", Cost: client.Tokens(4)})
	require.NoError(t, err)
	assert.EqualValues(t, 4, r.Remaining)
	r, err = c.Charge(t.Context(), client.Check{Key: "key-0", Cost: client.Tokens(7)})
	require.NoError(t, err)
	assert.EqualValues(t, -3, r.Remaining)
	answers, err := c.CheckMany(t.Context(), []client.Check{{Key: "new", Cost: client.Tokens(9)}, {Key: "new"}, {Key: "new"}})
	require.NoError(t, err)
	assert.Equal(t, []bool{true, true, false},
		[]bool{answers[0].Result.Allowed, answers[1].Result.Allowed, answers[2].Result.Allowed})
	_, err = c.Check(t.Context(), client.Check{Key: "a", Policy: "other"})
	require.ErrorIs(t, err, client.ErrUnknownPolicy)
}

// countedChecks counts the checks that are sent.
type countedChecks struct {
	next   http.RoundTripper
	checks atomic.Int64
}

func (c *countedChecks) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var list struct{ Checks []json.RawMessage }
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	c.checks.Add(int64(max(len(list.Checks), 1))) // the body of /v1/check is one
	req.Body = io.NopCloser(bytes.NewReader(body))
	return c.next.RoundTrip(req)
}

// One of three hundred concurrent checks has an attribute that there is none of. The others share its calls, and none is sent
// a second time because of it.
func TestClient_aWrongCheckFailsAlone(t *testing.T) {
	const checks = 300
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1", "VELOCITY_CLIENT_KEY": "header:X-Client-ID"})
	counted := &countedChecks{next: p.Client.Transport}
	c, err := client.New(client.Config{URL: p.URL, Timeout: harness.Timeout, HTTPClient: &http.Client{Transport: counted}})
	require.NoError(t, err)
	var start, wg sync.WaitGroup
	start.Add(1)
	for i := range checks {
		wg.Go(func() {
			start.Wait()
			if i == checks/2 {
				_, err := c.Check(t.Context(), client.Check{Key: "wrong", Attributes: map[string]string{"tenant": "acme"}})
				assert.ErrorIs(t, err, client.ErrInvalid)
				assert.ErrorContains(t, err, "attributes.tenant: must be named")
				return
			}
			ok, err := c.Allow(t.Context(), fmt.Sprint("key-", i))
			assert.NoError(t, err)
			assert.True(t, ok)
		})
	}
	start.Done()
	wg.Wait()
	assert.EqualValues(t, checks, counted.checks.Load(), "each check is sent once")
}
