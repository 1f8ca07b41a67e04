//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// link is the network between the store and one server, simulated by toxiproxy.
type link struct {
	proxy *toxiproxy.Proxy
}

func startLink(t testing.TB, upstream string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &link{proxy: toxiproxy.NewProxy(server, "link", "127.0.0.1:0", upstream)}
	require.NoError(t, l.proxy.Start())
	t.Cleanup(l.close)
	return l
}

// close closes the link. It may be called more than once.
func (l *link) close() {
	l.proxy.Toxics.ResetToxics(context.Background())
	l.proxy.Stop()
}

func (l *link) addr() string { return l.proxy.Listen }

// downstream is the direction from the server to the store, upstream the direction to the server.
const (
	downstream = "downstream"
	upstream   = "upstream"
)

// addToxic adds a toxic. toxicity is the share of the connections that it affects.
func (l *link) addToxic(t testing.TB, kind, stream string, toxicity float64, attributes map[string]int) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes})
	require.NoError(t, err)
	_, err = l.proxy.Toxics.AddToxicJson(bytes.NewReader(text))
	require.NoError(t, err)
}

// restore removes all toxics and accepts connections again.
func (l *link) restore(t testing.TB) {
	t.Helper()
	l.proxy.Toxics.ResetToxics(t.Context())
	if !l.proxy.Enabled {
		require.NoError(t, l.proxy.Start())
	}
}

// disconnect closes every connection and refuses new ones.
func (l *link) disconnect() { l.proxy.Stop() }
