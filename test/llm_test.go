package test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// llm is the service with the policies of deploy/llm, in front of its stand-in.
type llm struct{ *harness.Process }

func startLLM(t *testing.T, flags ...string) llm {
	t.Helper()
	return llm{harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": "../deploy/llm/config/policies.yaml", "VELOCITY_KEY_SECRET": "change-me-change-me",
		"VELOCITY_UPSTREAM_URL": harness.StartLLM(t, "..", flags...), "REDIS_ADDR": redistest.Start(t).Addr,
		"VELOCITY_TAKE_TIMEOUT": "5s", // a slow machine must not look like an outage
	})}
}

// chat is a request to OpenAI's API, which is estimated to cost 500 tokens, and answers with two words.
func (l llm) chat(key, team, more string) harness.Response {
	l.T.Helper()
	return l.MustDo(http.MethodPost, l.URL+"/v1/chat/completions",
		`{"max_completion_tokens": 500, "messages": [{"role": "user", "content": "say this"}], `+more+`}`, "Authorization: Bearer "+key, "X-Team: "+team)
}

// message is the same to Anthropic's API.
func (l llm) message(key, team, more string) harness.Response {
	l.T.Helper()
	return l.MustDo(http.MethodPost, l.URL+"/v1/messages",
		`{"max_tokens": 500, "messages": [{"role": "user", "content": [{"type": "text", "text": "say this"}]}], `+more+`}`, "X-API-Key: "+key, "X-Team: "+team)
}

// used requires that this much of a limit of a client is used: of a quota, or of a concurrency limit.
func (l llm) used(want int, policy, client, limit string) {
	l.T.Helper()
	require.EventuallyWithT(l.T, func(c *assert.CollectT) { // the answer may come before the settlement
		resp, err := l.Do(http.MethodGet, l.Admin+"/v1/buckets/"+url.PathEscape(policy)+"/"+url.PathEscape(client), "")
		require.NoError(c, err)
		var bucket struct {
			Limits []struct {
				Name string
				Used int
				Held int `json:"held_total"`
			}
		}
		require.NoError(c, json.Unmarshal([]byte(resp.Body), &bucket), resp.Body)
		got := -1
		for _, b := range bucket.Limits {
			if b.Name == limit {
				got = b.Used + b.Held
			}
		}
		assert.Equal(c, want, got, "%s of %s under %s", limit, client, policy)
	}, harness.Timeout, harness.Interval)
}

// Each request costs what its answer reports, for its key and for its team.
func TestLLM_budgets(t *testing.T) {
	l := startLLM(t)
	for i, more := range []string{`"model": "m"`, `"model": "m", "stream": true`, `"model": "m", "stream": true, "stream_options": {"include_usage": true}`} {
		resp := l.chat("alice", "search", more)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		assert.Contains(t, resp.Body, `"usage":{"completion_tokens":2,"prompt_tokens":2,"total_tokens":4}`)
		l.used(4*(i+1), "openai", "Bearer alice", "daily")
		l.used(0, "openai", "Bearer alice", "parallel")
	}
	for i, more := range []string{`"model": "m"`, `"model": "m", "stream": true`} {
		resp := l.message("alice", "search", more)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		assert.Contains(t, resp.Body, `"output_tokens":2`)
		l.used(4*(i+1), "anthropic", "alice", "daily")
	}
	assert.Equal(t, http.StatusOK, l.chat("bob", "search", `"model": "m"`).Status)
	assert.Equal(t, http.StatusOK, l.chat("bob", "ads", `"model": "m"`).Status)
	l.used(8, "openai", "Bearer bob", "daily")
	l.used(12, "openai", "Bearer alice", "daily")
	l.used(24, "shared/team", "search", "team")
	l.used(4, "shared/team", "ads", "team")

	assert.Equal(t, http.StatusInternalServerError, l.chat("alice", "search", `"model": "broken"`).Status)
	l.used(24, "shared/team", "search", "team")
	_, err := l.Do(http.MethodPost, l.URL+"/v1/chat/completions",
		`{"model": "cut", "max_tokens": 500, "stream": true, "messages": [{"role": "user", "content": "say this"}]}`, "Authorization: Bearer alice", "X-Team: search")
	require.Error(t, err, "it breaks off")
	l.used(512, "openai", "Bearer alice", "daily")
	l.used(524, "shared/team", "search", "team")

	resp := l.MustDo(http.MethodPost, l.URL+"/v1/chat/completions", `{"messages": []}`)
	assert.Equal(t, http.StatusUnauthorized, resp.Status, "without a key")
}

// A stream counts until it has ended.
func TestLLM_fiveAtOnce(t *testing.T) {
	l := startLLM(t, "-pause", "1h")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range 5 {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL+"/v1/messages", strings.NewReader(
			`{"model": "m", "max_tokens": 100, "stream": true, "messages": [{"role": "user", "content": "say this"}]}`))
		require.NoError(t, err)
		req.Header = http.Header{"X-Api-Key": {"alice"}, "X-Team": {"search"}}
		resp, err := l.Client.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "event: message_start\n", line, "an event passes when it comes")
		defer func() { _ = resp.Body.Close() }()
	}
	l.used(5, "anthropic", "alice", "parallel")
	l.used(500, "shared/team", "search", "team")
	sixth := l.message("alice", "search", `"model": "m"`)
	assert.Equal(t, http.StatusTooManyRequests, sixth.Status)
	assert.Equal(t, "1", sixth.Header.Get("Retry-After"))
	assert.Contains(t, sixth.Body, `"violated-policies":["parallel"]`)
	leave()
	l.used(0, "anthropic", "alice", "parallel")
	l.used(500, "shared/team", "search", "team") // an answer that breaks off costs the estimate
}

// The commands of the example's page answer as it shows.
func TestLLM_readme(t *testing.T) {
	const path = "../deploy/llm/README.md"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	l := startLLM(t)
	d := document{t: t, dir: t.TempDir(), service: l.Process}
	got := fence.ReplaceAllStringFunc(string(text), d.block)
	assert.Positive(t, d.commands)
	if *updateDocs {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644)) //nolint:gosec // the mode in git
		return
	}
	assert.Equal(t, string(text), got, "go test ./test -run TestLLM -docs.update writes it")

	seconds := regexp.MustCompile(`;t=\d+`)
	answer := l.chat("dave", "ads", `"model": "m"`)
	shown := regexp.MustCompile("(?s)```http\n(.*?)```").FindStringSubmatch(string(text))
	require.NotNil(t, shown)
	for line := range strings.Lines(shown[1]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		assert.Equal(t, seconds.ReplaceAllString(value, ""), seconds.ReplaceAllString(answer.Header.Get(name), ""), name)
	}
}
