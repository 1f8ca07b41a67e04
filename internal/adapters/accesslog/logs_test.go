package accesslog_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func paths(list []request) string {
	var all []string
	for _, r := range list {
		all = append(all, r.Path)
	}
	return strings.Join(all, " ")
}

func TestLogs_linesALittleOutOfOrderAreSorted(t *testing.T) {
	t.Parallel()
	cfg := plainConfig
	cfg.Window = 10 * time.Second
	got, stats := read(t, cfg,
		at(5*time.Second, "/a"), at(3*time.Second, "/b"), at(5*time.Second, "/c"), at(0, "/d"), at(15*time.Second, "/e"), at(6*time.Second, "/f"))
	assert.Equal(t, "/d /b /a /c /f /e", paths(got), "equal times stay in the order of the log")
	assert.Equal(t, 0, stats.Late)
}

func TestLogs_aLineBeyondTheWindowGetsTheTimeOfAnEarlierLine(t *testing.T) {
	t.Parallel()
	cfg := plainConfig
	cfg.Window = time.Second
	got, stats := read(t, cfg, at(60*time.Second, "/a"), at(61*time.Second, "/b"), at(62*time.Second, "/c"), at(0, "/d"))
	assert.Equal(t, "/a /b /d /c", paths(got))
	assert.Equal(t, 1, stats.Late)
	for i := range got[1:] {
		assert.LessOrEqual(t, got[i].Time, got[i+1].Time, "time never goes back")
	}
}

func TestLogs_severalLogsAreMergedByTime(t *testing.T) {
	t.Parallel()
	newer := file(t, "access.log", at(4*time.Second, "/d"), at(5*time.Second, "/e"))
	older := file(t, "access.log.1.gz", at(0, "/a"), at(time.Second, "/b"), at(4*time.Second, "/c"))
	l, err := accesslog.Open([]string{newer, older, accesslog.Stdin}, strings.NewReader(at(2*time.Second, "/x")), plainConfig)
	require.NoError(t, err)
	var got []request
	var names []string
	each(t, l, func(r *ports.LoggedRequest) {
		got = append(got, copied(r))
		names = append(names, filepath.Base(r.Log))
	})
	require.NoError(t, l.Close())
	assert.Equal(t, "/a /b /x /d /c /e", paths(got), "among equal times, the log named first comes first")
	assert.Equal(t, []string{"access.log.1.gz", "access.log.1.gz", "-", "access.log", "access.log.1.gz", "access.log"}, names)
	assert.Equal(t, 6, l.Stats().Requests)
}

func TestLogs_noLineIsLostBetweenBatches(t *testing.T) {
	t.Parallel()
	const n = 20_000
	lines := make([]string, n)
	for i := range lines {
		lines[i] = at(time.Duration(i/100)*time.Second, fmt.Sprintf("/%d", i))
	}
	cfg := plainConfig
	cfg.Window = accesslog.DefaultWindow
	l, err := accesslog.Open([]string{file(t, "a.gz", lines...)}, nil, cfg)
	require.NoError(t, err)
	i := 0
	each(t, l, func(r *ports.LoggedRequest) {
		require.Equal(t, fmt.Sprintf("/%d", i), r.Request.Path)
		require.Equal(t, i+1, r.Line)
		i++
	})
	assert.Equal(t, n, i)
	read, total := l.Progress()
	assert.Equal(t, total, read)
	assert.Positive(t, total)
	require.NoError(t, l.Close())
}

func TestLogs_gzipIsDetectedByItsContentAndMayHaveSeveralMembers(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for _, path := range []string{"/a", "/b"} {
		z := gzip.NewWriter(&b)
		_, err := io.WriteString(z, at(0, path)+"\n")
		require.NoError(t, err)
		require.NoError(t, z.Close())
	}
	l, err := accesslog.Open([]string{accesslog.Stdin}, &b, plainConfig)
	require.NoError(t, err)
	var got []request
	each(t, l, func(r *ports.LoggedRequest) { got = append(got, copied(r)) })
	assert.Equal(t, "/a /b", paths(got))
	require.NoError(t, l.Close())
}

func TestLogs_aBrokenArchiveIsAnError(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(file(t, "a.gz", at(0, "/a"), at(0, "/b")))
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut.log")
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)-12], 0o600))
	l, err := accesslog.Open([]string{cut}, nil, plainConfig)
	require.NoError(t, err)
	for err == nil {
		_, err = l.Next()
	}
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Contains(t, err.Error(), "cut.log: after ")
	require.NoError(t, l.Close())
}

func TestLogs_missingAndEmptyFiles(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none")
	_, err := accesslog.Open([]string{file(t, "a"), missing}, nil, plainConfig)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.Contains(t, err.Error(), missing)
	got, stats := read(t, plainConfig, "")
	assert.Empty(t, got)
	assert.Equal(t, 0, stats.Lines)
}

func TestLogs_closeEndsEverythingEarly(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	lines := make([]string, 50_000)
	for i := range lines {
		lines[i] = at(0, "/")
	}
	l, err := accesslog.Open([]string{file(t, "a.gz", lines...), file(t, "b", lines...)}, nil, plainConfig)
	require.NoError(t, err)
	_, err = l.Next()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close(), "closing twice is harmless")
}

func TestConfig_everyViolationIsReported(t *testing.T) {
	t.Parallel()
	_, err := accesslog.Open(nil, nil, accesslog.Config{Window: -time.Second})
	require.Error(t, err)
	assert.Contains(t, err.Error(), "NormalPath")
	assert.Contains(t, err.Error(), "window: -1s")
}

// BenchmarkNext measures one line, decompression included.
func BenchmarkNext(b *testing.B) {
	for _, format := range []struct{ name, line string }{
		{"combined", at(0, "/api/search?q=velocity") + ` "https://example.com/" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"`},
		{"nginx", `{"time_iso8601":"2026-11-24T12:00:00+00:00","remote_addr":"192.0.2.1","request_method":"GET","request_uri":"/api/search?q=velocity","host":"example.com","status":"200","body_bytes_sent":"512","request_time":"0.003","http_referer":"","http_user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","http_x_client_id":"alice"}`},
		{"caddy", `{"level":"info","ts":1791633600.1234567,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"192.0.2.1","remote_port":"52","client_ip":"192.0.2.1","proto":"HTTP/2.0","method":"GET","host":"example.com","uri":"/api/search?q=velocity","headers":{"User-Agent":["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"],"Accept":["*/*"],"X-Client-Id":["alice"]},"tls":{"resumed":false,"version":772,"cipher_suite":4865,"proto":"h2","server_name":"example.com"}},"bytes_read":0,"user_id":"","duration":0.001,"size":5,"status":200,"resp_headers":{"Server":["Caddy"],"Content-Type":["application/json"]}}`},
	} {
		b.Run(format.name, func(b *testing.B) {
			b.ReportAllocs()
			lines := make([]string, b.N)
			for i := range lines {
				lines[i] = format.line
			}
			l, err := accesslog.Open([]string{file(b, "a.gz", lines...)}, nil, plainConfig)
			require.NoError(b, err)
			b.ResetTimer()
			for range b.N {
				if _, err := l.Next(); err != nil && !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			require.NoError(b, l.Close())
		})
	}
}
