package test

import (
	"context"
	"errors"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/client"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// TestDocs_goSnippets: one test function has all lines of a Go snippet of docs/embedding.md, in the same order. Between them it
// may have others, which check something.
func TestDocs_goSnippets(t *testing.T) {
	text, err := os.ReadFile("../docs/embedding.md")
	require.NoError(t, err)
	var functions []string
	for _, pattern := range []string{"*_test.go", "../velocityhttp/*_test.go", "../bench/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			functions = append(functions, strings.Split("\n"+code(string(source)), "\nfunc ")...)
		}
	}
	n := 0
	for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
		if block[1] != "go" {
			continue
		}
		n++
		missing := block[2]
		for _, function := range functions {
			if rest := after(function, code(block[2])); len(rest) < len(missing) {
				missing = rest
			}
		}
		assert.Empty(t, missing, "no test has these lines after the others of their snippet")
	}
	assert.GreaterOrEqual(t, n, 9)
}

// after returns the lines of snippet from the first that source does not have after the lines before it.
func after(source, snippet string) string {
	for snippet != "" {
		line, rest, _ := strings.Cut(snippet, "\n")
		_, remaining, found := strings.Cut(source, "\n"+line+"\n")
		if !found {
			return snippet
		}
		source, snippet = "\n"+remaining, rest
	}
	return ""
}

// addresses are what snippets have in place of the servers of tests.
var addresses = strings.NewReplacer("server.Addr", `"localhost:6379"`, "service.URL", `"http://localhost:3000"`)

// code returns Go code without comments, indentation, alignment, and empty lines.
func code(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, " // ")
		line = addresses.Replace(line)
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "//") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func TestDocs_embeddedLimiter(t *testing.T) {
	ctx, server := t.Context(), redistest.Start(t)
	limiter, err := velocity.New(velocity.Config{
		Limits:   []velocity.Limit{velocity.PerSecond(5).Burst(10)},
		Policies: []velocity.Policy{{Name: "uploads", Limits: []velocity.Limit{velocity.PerMinute(20)}}},
		Redis:    []string{server.Addr},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer limiter.Close()
	if err := limiter.Ping(ctx); err != nil {
		log.Print(err)
	}
	ok, err := limiter.Allow(ctx, "alice")
	require.NoError(t, err)
	assert.True(t, ok)
	ok, err = limiter.AllowN(ctx, "alice", 3)
	require.NoError(t, err)
	assert.True(t, ok)
	err = limiter.Wait(ctx, "alice")
	require.NoError(t, err)
	r, err := limiter.Take(ctx, "alice", 1)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
	p, err := limiter.Acquire(ctx, "alice", 1)
	require.NoError(t, err)
	p.Release()
	r, err = limiter.Charge(ctx, "alice", 5)
	require.NoError(t, err)
	r, err = limiter.Refund(ctx, "alice", 1)
	require.NoError(t, err)
	err = limiter.Reset(ctx, "alice")
	require.NoError(t, err)
	uploads, err := limiter.Policy("uploads")
	require.NoError(t, err)
	r, err = uploads.Peek(ctx, "alice")
	require.NoError(t, err)
	assert.True(t, r.Allowed)
}

func TestDocs_quotas(t *testing.T) {
	ctx := t.Context()
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{
		velocity.PerSecond(50).Named("burst"),
		velocity.Quota(100_000, velocity.Day).In("Europe/Berlin").Named("daily"),
		velocity.Quota(1000, velocity.Month).From("2026-01-15").WithCost(1).Named("requests"),
	}})
	require.NoError(t, err)
	defer limiter.Close()
	r, err := limiter.Take(ctx, "alice", 40)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
	r, err = limiter.RefundTakenAt(ctx, "alice", 15, r.TakenAt)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
}

func TestDocs_requestsAtOnce(t *testing.T) {
	ctx, errBusy := t.Context(), errors.New("busy")
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{
		velocity.Concurrent(5).WithLease(30 * time.Second).Named("parallel"),
		velocity.PerMinute(100_000).Named("tokens"),
	}})
	require.NoError(t, err)
	defer limiter.Close()
	work := func() error {
		permit, err := limiter.Acquire(ctx, "alice", 1000)
		if err != nil {
			return err
		}
		defer permit.Release()
		if !permit.Allowed {
			return errBusy
		}
		err = permit.ReleaseCost(ctx, 812)
		return err
	}
	require.NoError(t, work())
	r, err := limiter.Peek(ctx, "alice")
	require.NoError(t, err)
	assert.GreaterOrEqual(t, r.Remaining, int64(100_000-812))
}

func TestDocs_waiting(t *testing.T) {
	ctx := t.Context()
	limiter, err := velocity.New(velocity.Config{Policies: []velocity.Policy{{
		Name: velocity.DefaultPolicy, Limits: []velocity.Limit{velocity.PerSecond(10)}, MaxWait: 500 * time.Millisecond,
	}}})
	require.NoError(t, err)
	defer limiter.Close()
	r, err := limiter.Reserve(ctx, "alice", 1)
	require.NoError(t, err)
	if r.Allowed {
		time.Sleep(r.Wait)
	}
	assert.True(t, r.Allowed)
}

func TestDocs_clockOfTests(t *testing.T) {
	start := time.Now()
	var passed atomic.Int64
	limiter, err := velocity.New(velocity.Config{
		Limits: []velocity.Limit{velocity.PerMinute(1)},
		Now:    func() time.Time { return start.Add(time.Duration(passed.Load())) },
	})
	require.NoError(t, err)
	defer limiter.Close()
	for _, want := range []bool{true, false} {
		ok, err := limiter.Allow(t.Context(), "alice")
		require.NoError(t, err)
		assert.Equal(t, want, ok)
	}
	passed.Add(int64(time.Minute))
	ok, err := limiter.Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
}

func TestDocs_clientOfTheService(t *testing.T) {
	service := harness.Start(t, nil)
	ask := func(ctx context.Context, token string) {
		c, err := client.New(client.Config{URL: service.URL, Token: token})
		if err != nil {
			log.Fatal(err)
		}
		r, err := c.Check(ctx, client.Check{Key: "alice", Policy: "search"})
		switch {
		case errors.Is(err, client.ErrUnavailable):
			t.Error(err)
		case err != nil:
			assert.ErrorContains(t, err, "there is no policy of this name")
		case !r.Allowed:
			t.Error("denied")
		}
	}
	ask(t.Context(), "")
}
