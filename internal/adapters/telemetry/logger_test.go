package telemetry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var all = telemetry.Config{LogLevel: "info", LogDecisions: telemetry.DecisionsAll}

// output is a destination of a log, for concurrent use. While stuck is held, its Write blocks.
type output struct {
	stuck sync.Mutex
	mu    sync.Mutex
	buf   bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.stuck.Lock()
	defer o.stuck.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// lines decodes what was written: each line must be one JSON object.
func (o *output) lines(t *testing.T) []map[string]any {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []map[string]any
	for text := range strings.Lines(o.buf.String()) {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line), "line %q", text)
		lines = append(lines, line)
	}
	return lines
}

func newLogger(t *testing.T, cfg telemetry.Config, out *output) *telemetry.Logger {
	t.Helper()
	log, err := telemetry.NewLogger(cfg, out)
	require.NoError(t, err)
	return log
}

func TestNewLogger_refusesABadConfig(t *testing.T) {
	_, err := telemetry.NewLogger(telemetry.Config{LogLevel: "loud", LogDecisions: "all"}, new(output))
	require.Error(t, err)
}

func TestLogger_writesJSONOfTheLevelAndAbove(t *testing.T) {
	var out output
	log := newLogger(t, telemetry.Config{LogLevel: "warn", LogDecisions: "all"}, &out)
	log.Info("left out")
	log.Warn("written", zap.Int("n", 3))
	require.NoError(t, log.Close())

	lines := out.lines(t)
	require.Len(t, lines, 1)
	assert.Equal(t, "warn", lines[0]["level"])
	assert.Equal(t, "written", lines[0]["msg"])
	assert.InDelta(t, 3, lines[0]["n"], 0)
	_, err := time.Parse(time.RFC3339Nano, lines[0]["time"].(string))
	assert.NoError(t, err)
}

func TestLogger_consoleWritesALineForPeople(t *testing.T) {
	var out output
	log := newLogger(t, telemetry.Config{LogLevel: "info", LogFormat: telemetry.FormatConsole, LogDecisions: "all"}, &out)
	log.Warn("written", zap.Int("n", 3), zap.String("client", "a\x1b[2J\nb"))
	require.NoError(t, log.Close())
	assert.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3}  WARN  written  \{"n": 3, "client": "a\\u001b\[2J\\nb"\}\n$`, out.buf.String())
}

func TestLogger_flushesEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		log := newLogger(t, all, &out)
		log.Info("buffered")
		synctest.Wait()
		assert.Empty(t, out.lines(t), "before the flush")

		time.Sleep(time.Second)
		synctest.Wait()
		assert.Len(t, out.lines(t), 1, "after it")
		require.NoError(t, log.Close())
	})
}

func TestLogger_closeWritesWhatIsLeft(t *testing.T) {
	var out output
	log := newLogger(t, all, &out)
	const n = 20_000 // several chunks
	for range n {
		log.Info("one of many", zap.String("padding", strings.Repeat("x", 50)))
	}
	require.NoError(t, log.Close())
	assert.Len(t, out.lines(t), n)
}

// The clock stands still, so that Close may take any time on a busy machine.
func TestLogger_neverWaitsForItsOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		log := newLogger(t, all, &out)
		out.stuck.Lock()
		const n = 50_000 // 20 MiB: more than may wait
		padding := strings.Repeat("x", 400)
		for i := range n {
			log.Info("one of many", zap.Int("i", i), zap.String("padding", padding)) // a logger that waits would block for ever here
		}
		out.stuck.Unlock()
		require.NoError(t, log.Close())

		var written, missing float64
		for _, line := range out.lines(t) {
			if line["msg"] == "one of many" {
				written++
				continue
			}
			assert.Equal(t, "Log lines dropped: the output was too slow", line["msg"])
			assert.Equal(t, "warn", line["level"])
			missing += line["lines"].(float64)
		}
		assert.Positive(t, missing)
		assert.InDelta(t, missing, log.Dropped(), 0, "the same number as in the metrics")
		assert.InDelta(t, n, written+missing, 0, "every line was written or counted")
	})
}

func TestLogger_closeGivesUpOnAStuckOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out stuckOutput = make(chan struct{})
		log, err := telemetry.NewLogger(all, out)
		require.NoError(t, err)
		log.Info("never written")
		start := time.Now()
		require.Error(t, log.Close())
		assert.LessOrEqual(t, time.Since(start), 2*time.Second)
		log.Info("logged too late, which is harmless")
		close(out)
	})
}

// stuckOutput blocks until it is closed. synctest sees that it blocks, unlike a mutex.
type stuckOutput chan struct{}

func (o stuckOutput) Write(p []byte) (int, error) { <-o; return len(p), nil }

func TestLogger_isSafeForConcurrentUse(t *testing.T) {
	var out output
	log := newLogger(t, all, &out)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				log.Info(fmt.Sprintf("%d/%d", g, i))
			}
		})
	}
	wg.Wait()
	require.NoError(t, log.Close())
	assert.Len(t, out.lines(t), 8*500)
}
