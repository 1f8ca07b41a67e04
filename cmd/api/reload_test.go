package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// output is a stream that a test reads while it is written.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) has(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.text.String(), text)
}

// A SIGHUP that arrives before the service is ready is carried out then. It used to end the process.
func TestServe_aHangupDuringTheStartIsCaught(t *testing.T) {
	const patience = 20 * time.Second
	t.Setenv("VELOCITY_HTTP_ADDR", "127.0.0.1:0")
	t.Setenv("VELOCITY_ADMIN_ADDR", "127.0.0.1:0")
	cfg, err := settings.Load()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, exit := &output{}, make(chan int, 1)
	go func() { exit <- serve(ctx, cfg, command.Streams{In: strings.NewReader(""), Out: out, Err: out}) }()
	require.Eventually(t, func() bool { return out.has(`"Started"`) }, patience, time.Millisecond)
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	assert.Eventually(t, func() bool { return out.has("SIGHUP has nothing to reload") }, patience, time.Millisecond)
	cancel()
	assert.Equal(t, command.ExitOK, <-exit)
}
