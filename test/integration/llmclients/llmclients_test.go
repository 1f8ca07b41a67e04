// Package llmclients runs the official Go clients of OpenAI and Anthropic through the proxy, with the policies of deploy/llm, and
// beside that directly against the stand-in of deploy/llm. Nothing differs but headers, and the usage of OpenAI's streams, for which
// `include_usage` asks.
package llmclients

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m, "../../..") }

// question is 22 words, with some that are not ASCII, and what looks like usage.
const question = `Fünf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, sagte sie: "usage": {"total_tokens": 999} 日本語 и текст, und dann {} data: [DONE] fertig.`

// wire records the answers to a client as they came.
type wire struct {
	http.RoundTripper
	header http.Header
	body   bytes.Buffer
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := w.RoundTripper.RoundTrip(req)
	if err == nil {
		w.header = res.Header.Clone()
		w.body.Reset()
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(res.Body, &w.body), res.Body}
	}
	return res, err
}

// call asks by a client, and returns what the program gets: the answer or the events, as JSON texts, and the error.
type call func(ctx context.Context, client *http.Client, url string) ([]string, error)

func openAI(model string, maxTokens int64, options ...openaioption.RequestOption) call {
	return func(ctx context.Context, client *http.Client, url string) ([]string, error) {
		c := openai.NewClient(append(options, openaioption.WithHTTPClient(client), openaioption.WithBaseURL(url+"/v1/"))...)
		answer, err := c.Chat.Completions.New(ctx, openAIParams(model, maxTokens))
		if err != nil {
			return nil, err
		}
		return []string{answer.RawJSON()}, nil
	}
}

func openAIParams(model string, maxTokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, MaxCompletionTokens: openai.Int(maxTokens), Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
}

func openAIStream(model string, usage bool) call {
	return func(ctx context.Context, client *http.Client, url string) (events []string, err error) {
		c := openai.NewClient(openaioption.WithHTTPClient(client), openaioption.WithBaseURL(url+"/v1/"), openaioption.WithAPIKey("alice"), openaioption.WithMaxRetries(0))
		params := openAIParams(model, 100)
		if usage {
			params.StreamOptions.IncludeUsage = openai.Bool(true)
		}
		stream := c.Chat.Completions.NewStreaming(ctx, params)
		for stream.Next() {
			events = append(events, stream.Current().RawJSON())
		}
		return events, errors.Join(stream.Err(), stream.Close())
	}
}

func anthropicParams(model string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: model, MaxTokens: 100,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))},
	}
}

func claude(client *http.Client, url string) anthropic.Client {
	return anthropic.NewClient(anthropicoption.WithHTTPClient(client), anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("alice"),
		anthropicoption.WithMaxRetries(0))
}

func anthropicMessage(model string) call {
	return func(ctx context.Context, client *http.Client, url string) ([]string, error) {
		c := claude(client, url)
		answer, err := c.Messages.New(ctx, anthropicParams(model))
		if err != nil {
			return nil, err
		}
		return []string{answer.RawJSON()}, nil
	}
}

func anthropicStream(model string) call {
	return func(ctx context.Context, client *http.Client, url string) (events []string, err error) {
		c := claude(client, url)
		stream := c.Messages.NewStreaming(ctx, anthropicParams(model))
		for stream.Next() {
			events = append(events, stream.Current().RawJSON())
		}
		return events, errors.Join(stream.Err(), stream.Close())
	}
}

func startLLM(t *testing.T) (direct string, proxy *harness.Process) {
	t.Helper()
	direct = harness.StartLLM(t, "../../..")
	return direct, harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": "../../../deploy/llm/config/policies.yaml", "VELOCITY_KEY_SECRET": "a-secret-of-the-test-alone-0123456789",
		"VELOCITY_UPSTREAM_URL": direct, "REDIS_ADDR": redistest.Start(t).Addr,
	})
}

func alice(options ...openaioption.RequestOption) []openaioption.RequestOption {
	return append(options, openaioption.WithAPIKey("alice"), openaioption.WithMaxRetries(0))
}

func TestLLMClients_seeNoDifference(t *testing.T) {
	direct, proxy := startLLM(t)
	for name, ask := range map[string]call{
		"openai": openAI("m", 100, alice()...), "openai, cut short": openAI("m", 5, alice()...), "openai, an error": openAI("broken", 100, alice()...),
		"openai, a stream with usage": openAIStream("m", true), "openai, a stream that breaks off": openAIStream("cut", true),
		"openai, a stream that is an error": openAIStream("broken", true),
		"anthropic":                         anthropicMessage("m"), "anthropic, an error": anthropicMessage("broken"),
		"anthropic, a stream": anthropicStream("m"), "anthropic, a stream that breaks off": anthropicStream("cut"),
		"anthropic, a stream that is an error": anthropicStream("broken"),
	} {
		wantWire, want, wantErr := asked(t, ask, direct)
		gotWire, got, gotErr := asked(t, ask, proxy.URL)
		assert.Equal(t, want, got, name)
		assert.Equal(t, wantWire.body.String(), gotWire.body.String(), name)
		assert.Equal(t, wantErr == nil, gotErr == nil, "%s: %v, %v", name, wantErr, gotErr)
		if wantErr != nil {
			assert.Equal(t, strings.ReplaceAll(wantErr.Error(), direct, proxy.URL), gotErr.Error(), name)
		}
		sameHeaders(t, wantWire.header, gotWire.header, name)
		if wantErr == nil {
			assert.NotEmpty(t, got, name)
		}
	}
}

// asked asks by a client of its own.
func asked(t *testing.T, ask call, url string) (*wire, []string, error) {
	t.Helper()
	w := &wire{RoundTripper: &http.Transport{DisableKeepAlives: true}}
	answer, err := ask(t.Context(), &http.Client{Transport: w, Timeout: harness.Timeout}, url)
	return w, answer, err
}

// sameHeaders requires that the proxy adds its own headers alone. Connection differs since the server closes it after an abort.
func sameHeaders(t *testing.T, direct, proxied http.Header, of string) {
	t.Helper()
	own := func(name string) bool {
		return strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "Ratelimit") || name == "X-Request-Id"
	}
	for name := range proxied {
		if own(name) || name == "Date" {
			proxied.Del(name)
		}
	}
	direct.Del("Date")
	assert.Equal(t, direct, proxied, of)
}

// A stream that did not ask for usage has one more event, as if it had asked.
func TestLLMClients_usageOfStreams(t *testing.T) {
	direct, proxy := startLLM(t)
	withUsage, events, err := asked(t, openAIStream("m", true), direct)
	require.NoError(t, err)
	_, without, err := asked(t, openAIStream("m", false), direct)
	require.NoError(t, err)
	require.Equal(t, events[:len(events)-1], without, "what the upstream answers")
	proxied, got, err := asked(t, openAIStream("m", false), proxy.URL)
	require.NoError(t, err)
	assert.Equal(t, events, got)
	assert.Equal(t, withUsage.body.String(), proxied.body.String())
}

// A denial is an error of each client. By default the clients wait as Retry-After says, and try again.
func TestLLMClients_denials(t *testing.T) {
	_, proxy := startLLM(t)
	_, _, err := asked(t, openAI("m", 20_001, alice()...), proxy.URL)
	denied, ok := errors.AsType[*openai.Error](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, http.StatusTooManyRequests, denied.StatusCode)
	assert.Contains(t, string(denied.DumpResponse(true)), "the request costs more than the capacity of the limit tokens: it can never pass")

	policies, err := os.ReadFile("../../../deploy/llm/config/policies.yaml")
	require.NoError(t, err)
	const requests = "rate: 60/m, capacity: 20,"
	require.Equal(t, 2, strings.Count(string(policies), requests), "of openai and anthropic")
	text := strings.Replace(string(policies), requests, "rate: 1/s, capacity: 1,", 1)
	text = strings.Replace(text, requests, "rate: 1/h, capacity: 1,", 1)
	direct := harness.StartLLM(t, "../../..")
	one := harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", text), "VELOCITY_KEY_SECRET": "a-secret-of-the-test-alone-0123456789",
		"VELOCITY_UPSTREAM_URL": direct, "REDIS_ADDR": redistest.Start(t).Addr,
	})
	for began := time.Now(); one.Metric("velocity_decisions_total", `policy="openai"`, `outcome="denied"`) == 0; {
		require.Less(t, time.Since(began), harness.Timeout)
		_, answer, err := asked(t, openAI("m", 100, openaioption.WithAPIKey("alice"), openaioption.WithMaxRetries(9)), one.URL)
		require.NoError(t, err, "it waits for as long as Retry-After says")
		assert.Len(t, answer, 1)
	}
	_, _, err = asked(t, anthropicMessage("m"), one.URL)
	require.NoError(t, err)
	_, _, err = asked(t, anthropicMessage("m"), one.URL)
	refused, ok := errors.AsType[*anthropic.Error](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, http.StatusTooManyRequests, refused.StatusCode)
	assert.NotEmpty(t, refused.Response.Header.Get("Retry-After"))
}
