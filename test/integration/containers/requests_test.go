//go:build containers

package containers

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// decided is what an answer of the decision API says.
type decided struct {
	Allowed bool
	Store   string
	// closing means that the node closes the connection, because it drains.
	closing bool
}

func (d decided) byPolicy() bool { return d.Store == "fallback" }

// resource requests the protected resource of a node.
func (p *project) resource(n node) (harness.Response, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+n.addr+"/api/resource", nil)
	if err != nil {
		return harness.Response{}, err
	}
	return harness.Send(p.client, req)
}

// check takes a token of a client at a node.
func (p *project) check(n node, client string) (decided, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+n.addr+"/v1/check", strings.NewReader(fmt.Sprintf(`{"key": %q}`, client)))
	if err != nil {
		return decided{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := p.client.Do(req)
	if err != nil {
		return decided{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return decided{}, fmt.Errorf("status %d, %w: %s", resp.StatusCode, err, text)
	}
	d := decided{closing: resp.Close}
	return d, json.Unmarshal(text, &d)
}

// mustCheck is check for the goroutine of the test.
func (p *project) mustCheck(t *testing.T, n node, client string) decided {
	t.Helper()
	d, err := p.check(n, client)
	require.NoError(t, err)
	return d
}

// answersByRedis waits until a node's decisions of a client are made by Redis. Each try takes a token.
func (p *project) answersByRedis(t *testing.T, n node, client string) {
	t.Helper()
	eventually(t, n.service+" decides by Redis for "+client, func() bool {
		d, err := p.check(n, client)
		return err == nil && !d.byPolicy()
	})
}

// admitted sends 32 requests at once, in turn to each of the nodes, until n were sent for each client, and returns how many were allowed for
// each. All must be decided by Redis.
func (p *project) admitted(t *testing.T, nodes []node, clients []string, n int) map[string]int {
	t.Helper()
	allowed := make([]atomic.Int64, len(clients))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n*len(clients); i = int(next.Add(1)) - 1 {
				c := i % len(clients)
				d, err := p.check(nodes[i/len(clients)%len(nodes)], clients[c])
				if !assert.NoError(t, err) || !assert.False(t, d.byPolicy(), "decided by the failure policy: %s", clients[c]) {
					return
				}
				if d.Allowed {
					allowed[c].Add(1)
				}
			}
		})
	}
	workers.Wait()
	counts := map[string]int{}
	for c := range clients {
		counts[clients[c]] = int(allowed[c].Load())
	}
	return counts
}
