package usage_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/usage"
)

// FuzzReader checks that an answer's pieces do not matter, and that the result is that of encoding/json for streams whose events, and
// for answers that, are JSON.
func FuzzReader(f *testing.F) {
	for _, row := range totals(f) {
		if answer := answerIn(f, row[0]); len(answer) < 2000 {
			f.Add(answer, uint8(len(row[0])))
		}
	}
	f.Fuzz(func(t *testing.T, answer []byte, size uint8) {
		for _, contentType := range []string{eventStream, jsonText} {
			for _, actual := range []policy.Actual{{Usage: true}, pointers(t, "/usage/total_tokens", "/usage/a", "/a"), pointers(t, "/usage/0")} {
				whole := read(actual, contentType, answer, len(answer))
				require.Equal(t, whole, read(actual, contentType, answer, 1))
				require.Equal(t, whole, read(actual, contentType, answer, int(size)))
			}
		}
		if want, ok := byEncodingJSON([][]byte{answer}); ok {
			require.Equal(t, want, read(policy.Actual{Usage: true}, jsonText, answer, int(size)))
		}
		if want, ok := byEncodingJSON(dataOf(answer)); ok {
			require.Equal(t, want, read(policy.Actual{Usage: true}, eventStream, answer, int(size)))
		}
	})
}

// TestFuzzReader_theOtherWay: the other way of reading, which the fuzz test compares with, has the right totals.
func TestFuzzReader_theOtherWay(t *testing.T) {
	compared := 0
	for _, row := range totals(t) {
		texts := [][]byte{answerIn(t, row[0])}
		if contentTypeOf(row[0]) == eventStream {
			texts = dataOf(texts[0])
		}
		if total, ok := byEncodingJSON(texts); ok {
			compared++
			require.Equal(t, row[1], total, row[0])
		}
	}
	require.Greater(t, compared, 80)
}

// dataOf returns the data of server-sent events, with that of an event which no blank line ends.
func dataOf(stream []byte) (texts [][]byte) {
	lines := strings.TrimPrefix(string(stream), "\xef\xbb\xbf")
	lines = strings.ReplaceAll(strings.ReplaceAll(lines, "\r\n", "\n"), "\r", "\n")
	var data []string
	for line := range strings.SplitSeq(lines+"\n\n", "\n") {
		field, value, _ := strings.Cut(line, ":")
		switch {
		case line == "" && len(data) > 0:
			texts = append(texts, []byte(strings.Join(data, "\n")))
			data = nil
		case field == "data":
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	return texts
}

// byEncodingJSON returns what texts report. ok is false if one of them is broken, and has a brace that could begin an object.
func byEncodingJSON(texts [][]byte) (total string, ok bool) {
	last := map[string]json.RawMessage{}
	for _, text := range texts {
		var v any
		switch {
		case json.Unmarshal(text, &v) == nil:
			collect(last, text)
		case bytes.Contains(text, []byte("{")):
			return "", false
		}
	}
	return totalOf(last), true
}

// collect puts the usage that a text reports into last.
func collect(last map[string]json.RawMessage, text []byte) {
	var elements []json.RawMessage
	if json.Unmarshal(text, &elements) == nil {
		for _, e := range elements {
			if !bytes.HasPrefix(e, []byte("[")) {
				collect(last, e)
			}
		}
		return
	}
	top := members(text)
	for _, usage := range []map[string]json.RawMessage{members(top["usage"]), members(members(top["response"])["usage"]), members(members(top["message"])["usage"]), members(top["usageMetadata"])} {
		for name, value := range usage {
			if string(value) != "null" {
				last[name] = value
			}
		}
	}
}

func members(object json.RawMessage) (m map[string]json.RawMessage) {
	if json.Unmarshal(object, &m) != nil {
		return nil
	}
	return m
}

func totalOf(last map[string]json.RawMessage) string {
	names := []string{"input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"}
	for _, name := range []string{"total_tokens", "totalTokenCount"} {
		if last[name] != nil {
			names = []string{name}
		}
	}
	sum := int64(-1)
	for _, name := range names {
		if last[name] == nil {
			continue
		}
		n, ok := tokensIn(string(last[name]))
		if sum = max(sum, 0) + n; !ok || sum > int64(domain.MaxCost) {
			return "invalid"
		}
	}
	if sum < 0 {
		return "none"
	}
	return strconv.FormatInt(sum, 10)
}

// tokensIn reads a JSON value that is a whole number of tokens.
func tokensIn(text string) (n int64, ok bool) {
	e := strings.IndexAny(text, "eE")
	if len(text) > 32 || strings.HasPrefix(text, "-") || e >= 0 && len(strings.TrimLeft(text[e+1:], "+-0")) > 3 {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok || !r.IsInt() || !r.Num().IsInt64() || r.Num().Int64() > int64(domain.MaxCost) {
		return 0, false
	}
	return r.Num().Int64(), true
}

func BenchmarkReader(b *testing.B) {
	one := answerIn(b, "openai-chat-stream.sse")
	event := one[:bytes.Index(one, []byte("\n\n"))+2]
	for name, event := range map[string][]byte{
		"events":            event,
		"events with total": answerIn(b, "spelling-several-usages.sse"),
		"escaped text":      bytes.Replace(event, []byte(`"content":""`), []byte(`"content":"`+strings.Repeat(`\u4e16\u754c`, 4)+`"`), 1),
		"lone CR":           bytes.ReplaceAll(event, []byte("\n"), []byte("\r")),
	} {
		stream := bytes.Repeat(event, 1<<20/len(event))
		for _, size := range []int{len(event), 32 << 10, len(stream)} {
			b.Run(name+"/pieces="+strconv.Itoa(size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(stream)))
				r := usage.NewReader(policy.Actual{Usage: true}, eventStream)
				for b.Loop() {
					for piece := range slices.Chunk(stream, size) {
						_, _ = r.Write(piece)
					}
				}
			})
		}
	}
}
