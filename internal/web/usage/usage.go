// Package usage reads what an answer says its request has cost, while the answer passes: the usage that the APIs of LLMs
// report, or the numbers at JSON pointers, in JSON and in server-sent events.
//
// It only watches: no byte is changed or delayed. What it holds does not grow with the answer, however long the answer, one of its
// lines or one of its values is.
package usage

import (
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// The total and the parts, and where the APIs report them. A field of one answer may be at several places: Anthropic's
// streams begin with message.usage, and end with a usage whose numbers replace it.
//
//   - OpenAI, and APIs that are compatible with it, report usage.total_tokens. The events of its responses API have it in the response.
//   - Gemini reports usageMetadata.totalTokenCount. Thoughts are in the total.
//   - Anthropic reports parts only. Tokens that were written to the cache or read from it are not in input_tokens.
var (
	totalAt = parse("/usage/total_tokens", "/response/usage/total_tokens", "/usageMetadata/totalTokenCount")
	partsAt = [][]jsonpointer.Pointer{
		parse("/usage/input_tokens", "/message/usage/input_tokens"),
		parse("/usage/cache_creation_input_tokens", "/message/usage/cache_creation_input_tokens"),
		parse("/usage/cache_read_input_tokens", "/message/usage/cache_read_input_tokens"),
		parse("/usage/output_tokens", "/message/usage/output_tokens"),
	}
	providers = newSearch(totalAt, partsAt)
)

// search is what a Reader looks for: field 0 is the total, the others are parts of it.
type search struct {
	set   *jsonpointer.Set
	parts int
	// needles: an event that has none of them has nothing that is looked for. None: every event may have.
	needles [][]byte
}

func newSearch(total []jsonpointer.Pointer, parts [][]jsonpointer.Pointer) *search {
	s := &search{set: jsonpointer.NewSet(append([][]jsonpointer.Pointer{total}, parts...)...), parts: len(parts)}
	s.needles = needlesOf(append(parts, total))
	return s
}

// Reader reads one answer. It is for one goroutine.
type Reader struct {
	search  *search
	scanner *jsonpointer.Scanner
	events  *eventReader // nil: the answer is JSON
	bom     int          // how many bytes of a byte order mark were read; its length if there is none
}

const byteOrderMark = "\xef\xbb\xbf"

// NewReader returns a Reader of an answer with a Content-Type. text/event-stream is read as server-sent events, each with
// a JSON text. Any other type is read as JSON, of one text, or of several that follow each other or are the elements of an
// array. An answer that is neither has no usage. So has any answer if actual has neither Usage nor Pointers.
func NewReader(actual policy.Actual, contentType string) *Reader {
	s := providers
	if !actual.Usage {
		parts := make([][]jsonpointer.Pointer, len(actual.Pointers))
		for i := range actual.Pointers {
			parts[i] = actual.Pointers[i : i+1]
		}
		s = newSearch(nil, parts)
	}
	r := &Reader{search: s, scanner: jsonpointer.NewScanner(s.set)}
	mediaType, _, _ := strings.Cut(contentType, ";")
	if strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream") {
		r.events = newEventReader(r.scanner, s.needles)
	}
	return r
}

// Write reads a piece of the answer: its bytes without a Content-Encoding. It keeps no part of p, and never fails.
func (r *Reader) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && r.bom < len(byteOrderMark) {
		if p[0] != byteOrderMark[r.bom] {
			r.read([]byte(byteOrderMark[:r.bom]))
			r.bom = len(byteOrderMark)
			break
		}
		r.bom++
		p = p[1:]
	}
	r.read(p)
	return n, nil
}

func (r *Reader) read(p []byte) {
	if r.events != nil {
		r.events.write(p)
	} else {
		r.scanner.Write(p)
	}
}

// Result returns what the answer has said so far: the total if it has one, else the sum of the parts. Of a field that was said
// several times the last value counts. A part that is missing is 0, unless all are. tokens is 0 unless status is
// [policy.UsageFound].
func (r *Reader) Result() (tokens domain.Tokens, status policy.Usage) {
	if total := r.scanner.Value(0); total.Kind != jsonpointer.Missing {
		return add(0, policy.UsageNone, total)
	}
	for part := range r.search.parts {
		tokens, status = add(tokens, status, r.scanner.Value(1+part))
	}
	return tokens, status
}

func add(tokens domain.Tokens, status policy.Usage, v jsonpointer.Value) (domain.Tokens, policy.Usage) {
	switch {
	case v.Kind == jsonpointer.Missing:
		return tokens, status
	case status == policy.UsageInvalid, v.Kind == jsonpointer.Other, v.Number > int64(domain.MaxCost-tokens):
		return 0, policy.UsageInvalid
	}
	return tokens + domain.Tokens(v.Number), policy.UsageFound
}

func parse(texts ...string) (pointers []jsonpointer.Pointer) {
	for _, text := range texts {
		p, err := jsonpointer.Parse(text)
		if err != nil {
			panic("usage: " + text + ": " + err.Error())
		}
		pointers = append(pointers, p)
	}
	return pointers
}
