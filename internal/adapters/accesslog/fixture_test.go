package accesslog_test

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/accesslog"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// request is a copy of a logged request, for comparisons: a log reuses the memory of its requests.
type request struct {
	Line                       int
	Time                       string // of the form 2006-01-02T15:04:05.000000Z
	Client, Method, Host, Path string
	Status                     int
}

func copied(r *ports.LoggedRequest) request {
	return request{
		Line: r.Line, Time: r.At.Time().Format("2006-01-02T15:04:05.000000Z"), Client: r.Request.Client.String(),
		Method: strings.Clone(r.Request.Method), Host: strings.Clone(r.Request.Host), Path: strings.Clone(r.Request.Path),
		Status: r.Status,
	}
}

var plainConfig = accesslog.Config{NormalPath: refusesDots}

// refusesDots is a normal form for tests.
func refusesDots(path string) (string, error) {
	if strings.Contains(path, "..") {
		return "", errors.New("goes above the root")
	}
	return path, nil
}

// each reads logs to their end.
func each(t testing.TB, l *accesslog.Logs, do func(*ports.LoggedRequest)) {
	t.Helper()
	for {
		r, err := l.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		do(r)
	}
}

// read reads one log from memory.
func read(t testing.TB, cfg accesslog.Config, lines ...string) ([]request, accesslog.Stats) {
	t.Helper()
	l, err := accesslog.Open([]string{accesslog.Stdin}, strings.NewReader(strings.Join(lines, "\n")), cfg)
	require.NoError(t, err)
	var found []request
	each(t, l, func(r *ports.LoggedRequest) { found = append(found, copied(r)) })
	require.NoError(t, l.Close())
	return found, l.Stats()
}

// file writes a log; a name that ends in .gz is compressed.
func file(t testing.TB, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	require.NoError(t, err)
	var w io.Writer = f
	if strings.HasSuffix(name, ".gz") {
		z := gzip.NewWriter(f)
		defer func() { require.NoError(t, z.Close()) }()
		w = z
	}
	_, err = io.WriteString(w, strings.Join(lines, "\n")+"\n")
	require.NoError(t, err)
	return path
}

// at returns a line of the Common Log Format, this many seconds after noon.
func at(offset time.Duration, path string) string {
	when := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).Add(offset)
	return "192.0.2.1 - - [" + when.Format("02/Jan/2006:15:04:05 -0700") + `] "GET ` + path + ` HTTP/1.1" 200 5`
}
