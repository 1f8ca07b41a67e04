package httpfiber_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProxy_webSocketPasses(t *testing.T) {
	var left atomic.Int32
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			return
		}
		defer func() { left.Add(1) }()
		c.SetReadLimit(1 << 20)
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, "ws://"+addr+"/chat", &websocket.DialOptions{Subprotocols: []string{"echo"}})
	require.NoError(t, err)
	assert.Equal(t, "9", res.Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, "echo", c.Subprotocol())
	c.SetReadLimit(1 << 20)
	for _, size := range []int{0, 1, 126, 70_000, 500_000} {
		sent := []byte(strings.Repeat("x", size))
		require.NoError(t, c.Write(ctx, websocket.MessageBinary, sent))
		_, got, err := c.Read(ctx)
		require.NoError(t, err)
		assert.Len(t, got, size)
	}
	require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
	assert.Eventually(t, func() bool { return left.Load() == 1 }, patience, tick)

	c, _, err = websocket.Dial(ctx, "ws://"+addr+"/chat", nil)
	require.NoError(t, err)
	require.NoError(t, c.CloseNow(), "without a word")
	assert.Eventually(t, func() bool { return left.Load() == 2 }, patience, tick)
}

func TestProxy_aDeniedWebSocketIsADenial(t *testing.T) {
	url := startUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("asked in spite of the denial") })
	addr := start(t, proxyConfig(url), always(decided(t, 0, 1, false)))
	_, res, err := websocket.Dial(t.Context(), "ws://"+addr+"/", nil)
	require.Error(t, err)
	assert.Equal(t, 429, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))
}

// TestProxy_noOtherUpgradePasses: the upstream would be spoken to in a protocol whose requests are not decided.
func TestProxy_noOtherUpgradePasses(t *testing.T) {
	w := new(witness)
	addr := doors[1].open(t, w)
	for _, lines := range []string{
		"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\n", // not for us
		"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n",
	} {
		w.reset()
		assert.Equal(t, 200, exchange(t, addr, plainly("/x", lines), 1)[0].status)
		assert.Empty(t, w.upstream["Upgrade"], lines)
		assert.Empty(t, w.upstream["Connection"], lines)
		assert.Empty(t, w.upstream["Http2-Settings"], lines)
	}
}
