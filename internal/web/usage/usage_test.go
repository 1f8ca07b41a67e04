package usage_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/usage"
)

const (
	eventStream = "text/event-stream"
	jsonText    = "application/json"
)

func Example() {
	r := usage.NewReader(policy.Actual{Usage: true}, "text/event-stream; charset=utf-8")
	_, _ = r.Write([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}],\"usage\":null}\n\n"))
	_, _ = r.Write([]byte("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tok"))
	_, _ = r.Write([]byte("ens\":21}}\n\ndata: [DONE]\n\n"))
	tokens, status := r.Result()
	fmt.Println(tokens, status == policy.UsageFound)
	// Output: 21 true
}

func pointers(t testing.TB, texts ...string) (actual policy.Actual) {
	for _, text := range texts {
		p, err := jsonpointer.Parse(text)
		require.NoError(t, err)
		actual.Pointers = append(actual.Pointers, p)
	}
	return actual
}

// read returns the result after an answer was written in pieces of size bytes.
func read(actual policy.Actual, contentType string, answer []byte, size int) string {
	r := usage.NewReader(actual, contentType)
	for piece := range slices.Chunk(bytes.Clone(answer), max(size, 1)) {
		_, _ = r.Write(piece)
		clear(piece) // it must not be kept
	}
	return result(r)
}

// result is "none", "invalid" or a number.
func result(r *usage.Reader) string {
	tokens, status := r.Result()
	switch {
	case status == policy.UsageFound:
		return strconv.FormatInt(int64(tokens), 10)
	case tokens != 0:
		return "tokens without usage"
	}
	return map[policy.Usage]string{policy.UsageNone: "none", policy.UsageInvalid: "invalid"}[status]
}

func contentTypeOf(file string) string {
	return map[string]string{".sse": eventStream, ".json": jsonText, ".ndjson": "application/x-ndjson", ".html": "text/html"}[filepath.Ext(file)]
}

// totals returns the rows of testdata/totals.tsv: a file, and the total that it reports, "none" or "invalid".
func totals(t testing.TB) [][]string {
	f, err := os.Open("testdata/totals.tsv")
	require.NoError(t, err)
	defer f.Close()
	table := csv.NewReader(f)
	table.Comma = '\t'
	rows, err := table.ReadAll()
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/*.*")
	require.NoError(t, err)
	require.Len(t, rows[1:], len(files)-2, "files but for the table and .gitattributes")
	return rows[1:]
}

func answerIn(t testing.TB, file string) []byte {
	answer, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(t, err)
	return answer
}

func TestReader_answersOfProviders(t *testing.T) {
	for _, row := range totals(t) {
		file, want := row[0], row[1]
		t.Run(file, func(t *testing.T) {
			answer := answerIn(t, file)
			for size := 1; size < 70; size++ {
				require.Equal(t, want, read(policy.Actual{Usage: true}, contentTypeOf(file), answer, size), "in pieces of %d bytes", size)
			}
			assert.Equal(t, want, read(policy.Actual{Usage: true}, contentTypeOf(file), answer, len(answer)), "whole")
		})
	}
}

func TestReader_inTwoPieces(t *testing.T) {
	for _, row := range totals(t) {
		answer := answerIn(t, row[0])
		for cut := range answer {
			r := usage.NewReader(policy.Actual{Usage: true}, contentTypeOf(row[0]))
			_, _ = r.Write(answer[:cut])
			_, _ = r.Write(nil)
			_, _ = r.Write(answer[cut:])
			require.Equal(t, row[1], result(r), "%s, cut at %d", row[0], cut)
		}
	}
}

func TestReader_whatWasSeenAtAnyTime(t *testing.T) {
	answer := answerIn(t, "anthropic-stream-several-deltas.sse")
	r := usage.NewReader(policy.Actual{Usage: true}, eventStream)
	var seen []string
	for _, c := range answer {
		_, _ = r.Write([]byte{c})
		seen = append(seen, result(r))
	}
	assert.Equal(t, []string{"none", "10", "11", "30", "45"}, slices.Compact(seen))
}

func TestReader_pointers(t *testing.T) {
	for _, tt := range []struct {
		file     string
		pointers []string
		want     string
	}{
		{"openai-chat.json", []string{"/usage/completion_tokens"}, "10"},
		{"openai-chat.json", []string{"/usage/prompt_tokens", "/usage/completion_tokens"}, "29"},
		{"openai-chat.json", []string{"/usage/prompt_tokens", "/usage/prompt_tokens"}, "38"},
		{"openai-chat.json", []string{"/usage/prompt_tokens", "/usage/missing"}, "19"},
		{"openai-chat.json", []string{"/usage/missing", "/missing"}, "none"},
		{"openai-chat.json", []string{"/usage", "/usage/prompt_tokens"}, "invalid"},
		{"openai-chat.json", []string{"/model"}, "invalid"},
		{"openai-chat.json", []string{"/choices/0/message/refusal"}, "none"},
		{"openai-chat-cached.json", []string{"/usage/prompt_tokens_details/cached_tokens"}, "1920"},
		{"openai-chat-stream.sse", []string{"/usage/completion_tokens"}, "12"},
		{"openai-chat-stream.sse", []string{"/choices/0/index", "/usage/completion_tokens"}, "12"},
		{"openai-responses-stream.sse", []string{"/response/usage/output_tokens"}, "11"},
		{"openai-embeddings.json", []string{"/data/0/index"}, "0"},
		{"openai-embeddings-base64.json", []string{"/data/1/index"}, "1"},
		{"anthropic-stream-cache.sse", []string{"/message/usage/input_tokens", "/usage/output_tokens"}, "213"},
		{"gemini-stream-array.json", []string{"/usageMetadata/candidatesTokenCount"}, "24"},
		{"gemini-stream-array.json", []string{"/1/usageMetadata/candidatesTokenCount"}, "10"},
		{"ollama-native.ndjson", []string{"/prompt_eval_count", "/eval_count"}, "308"},
		{"spelling-escaped-names.sse", []string{"/usage/total_tokens"}, "21"},
		{"spelling-crlf.sse", []string{"/usage/größe", "/usage/total_tokens"}, "21"},
	} {
		answer := answerIn(t, tt.file)
		for _, size := range []int{1, 7, len(answer)} {
			assert.Equal(t, tt.want, read(pointers(t, tt.pointers...), contentTypeOf(tt.file), answer, size), "%s in %s", tt.pointers, tt.file)
		}
	}
}

// TestReader_eventsThatAreNotSkipped: an event is skipped only if its bytes show that it has nothing that is looked for.
func TestReader_eventsThatAreNotSkipped(t *testing.T) {
	for pointer, object := range map[string]string{
		"/t-_9Z":   `{"t-_9\u005a":5}`,
		"/a~1b":    `{"a\/b":5}`,
		"/a\"b":    `{"a\"b":5}`,
		"/トークン":    `{"\u30c8\u30fc\u30af\u30f3":5}`,
		"/ ":       `{" ":5}`,
		"/":        `{"":5}`,
		"/x":       `{"x" :5}`,
		"/a/0":     `{"a":[5]}`,
		"/a/1/b/0": `{"a":[{},{"b":{"0":5}}]}`,
	} {
		assert.Equal(t, "5", read(pointers(t, pointer), eventStream, []byte("data: "+object+"\n\n"), 1000), pointer)
		assert.Equal(t, "5", read(pointers(t, "/x-y", pointer), eventStream, []byte("data: {}\n\ndata: "+object+"\n\ndata: {}\n\n"), 1000), pointer)
	}
}

func TestNewReader_contentTypes(t *testing.T) {
	events, text := []byte("data: {\"usage\":{\"total_tokens\":5}}\n\n"), []byte(`{"usage":{"total_tokens":6}}`)
	for contentType, want := range map[string][2]string{
		"text/event-stream":                {"5", "none"},
		"Text/Event-Stream ;charset=UTF-8": {"5", "none"},
		"application/json; charset=utf-8":  {"none", "6"},
		"application/problem+json":         {"none", "6"},
		"text/event-streams":               {"none", "6"},
		"":                                 {"none", "6"},
	} {
		assert.Equal(t, want[0], read(policy.Actual{Usage: true}, contentType, events, 9), contentType)
		assert.Equal(t, want[1], read(policy.Actual{Usage: true}, contentType, text, 9), contentType)
	}
}

func TestNewReader_nothingToRead(t *testing.T) {
	for _, actual := range []policy.Actual{{}, {Header: "x-tokens"}} {
		assert.Equal(t, "none", read(actual, jsonText, []byte(`{"usage":{"total_tokens":6}}`), 5))
		assert.Equal(t, "none", read(actual, eventStream, []byte("data: {\"usage\":{\"total_tokens\":6}}\n\n"), 5))
	}
}

// TestReader_hugeAnswers: what a Reader holds does not grow with a value, a line, an event, the depth or the stream.
func TestReader_hugeAnswers(t *testing.T) {
	const pieces = 300
	for name, a := range map[string]struct{ contentType, begin, piece, end string }{
		"a value":       {jsonText, `{"x":"`, strings.Repeat("xx\\\"", 4096), `","usage":{"total_tokens":5}}`},
		"a name":        {jsonText, `{"`, strings.Repeat("total_tokens", 1024), `":1,"usage":{"total_tokens":5}}`},
		"a number":      {jsonText, `{"usage":{"total_tokens":1`, strings.Repeat("0", 16384), `},"usage":{"total_tokens":5}}`},
		"depth":         {jsonText, `{"x":`, strings.Repeat("[{", 8192), strings.Repeat("}]", 8192*pieces) + `,"usage":{"total_tokens":5}}`},
		"many elements": {jsonText, `[`, strings.Repeat(`{"usage":{"total_tokens":4}},`, 512), `{"usage":{"total_tokens":5}}]`},
		"many events":   {eventStream, "", strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n", 256), "data: {\"usage\":{\"total_tokens\":5}}\n\n"},
		"a line":        {eventStream, `data: {"x":"`, strings.Repeat("\\u0020", 2048), "\",\"usage\":{\"total_tokens\":5}}\n\n"},
		"a comment":     {eventStream, ":", strings.Repeat("total_tokens", 1024), "\ndata: {\"usage\":{\"total_tokens\":5}}\n\n"},
		"an event":      {eventStream, "data: {\"x\":[0\n", strings.Repeat("data: ,0\n", 1024), "data: ],\"usage\":{\"total_tokens\":5}}\n\n"},
	} {
		r := usage.NewReader(policy.Actual{Usage: true}, a.contentType)
		_, _ = r.Write([]byte(a.begin))
		piece := []byte(a.piece)
		assert.Zero(t, testing.AllocsPerRun(pieces-1, func() { _, _ = r.Write(piece) }), name)
		_, _ = r.Write([]byte(a.end))
		assert.Equal(t, "5", result(r), name)
	}
}

func TestResult_tokensAreAtMostTheHighestCost(t *testing.T) {
	text := fmt.Sprintf(`{"a":%d,"b":1}`, domain.MaxCost)
	assert.Equal(t, strconv.Itoa(int(domain.MaxCost)), read(pointers(t, "/a"), jsonText, []byte(text), 3))
	assert.Equal(t, "invalid", read(pointers(t, "/a", "/b"), jsonText, []byte(text), 3))
	assert.Equal(t, "invalid", read(pointers(t, "/b", "/a", "/b"), jsonText, []byte(text), 3))
}
