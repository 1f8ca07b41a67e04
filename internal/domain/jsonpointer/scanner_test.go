package jsonpointer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
)

type value = jsonpointer.Value

var other = value{Kind: jsonpointer.Other}

func whole(n int64) value { return value{Number: n, Kind: jsonpointer.Whole} }

// scan returns the value of each pointer after text was written in pieces of size bytes.
func scan(t testing.TB, text string, size int, pointers ...string) []value {
	var fields [][]jsonpointer.Pointer
	for _, p := range pointers {
		fields = append(fields, []jsonpointer.Pointer{pointer(t, p)})
	}
	s := jsonpointer.NewScanner(jsonpointer.NewSet(fields...))
	for piece := range slices.Chunk([]byte(text), size) {
		s.Write(piece)
		clear(piece) // it must not be kept
	}
	var values []value
	for i := range fields {
		values = append(values, s.Value(i))
	}
	return values
}

func TestScanner(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []value // of /a, /b/c and /b/d
	}{
		{"nothing", ``, []value{{}, {}, {}}},
		{"members in any order", `{"b":{"d":3,"c":2},"a":1}`, []value{whole(1), whole(2), whole(3)}},
		{"zero", `{"a":0,"b":{"c":-0,"d":00}}`, []value{whole(0), other, other}},
		{"null is not there", `{"a":null,"b":null}`, []value{{}, {}, {}}},
		{"other values", `{"a":"1","b":{"c":{},"d":[1]}}`, []value{other, other, other}},
		{"whole numbers in other forms", `{"a":12.0,"b":{"c":1E+2,"d":1500e-2}}`, []value{whole(12), whole(100), whole(15)}},
		{"other numbers", `{"a":1.5,"b":{"c":1e-1,"d":true}}`, []value{other, other, other}},
		{"a number that does not end", `{"a":12`, []value{{}, {}, {}}},
		{"a text that does not end", `{"a":12,"b":{"c":3,`, []value{whole(12), whole(3), {}}},
		{"a text that breaks", `{"a":12,"b"={"c":3}}`, []value{whole(12), {}, {}}},
		{"a later text", `{"a":1,"b":{"c":2}} {"a":3}`, []value{whole(3), whole(2), {}}},
		{"lines", "{\"a\":1}\n{\"b\":{\"d\":2}}\n", []value{whole(1), {}, whole(2)}},
		{"elements", `[{"a":1,"b":{"c":2}},{"a":null},{"a":3,"b":"x"}]`, []value{whole(3), whole(2), {}}},
		{"elements that do not end", `[{"a":1},{"b":{"c":2}}`, []value{whole(1), whole(2), {}}},
		{"elements of elements", `[[{"a":1}]]`, []value{{}, {}, {}}},
		{"other elements", `[1,"a",null,[],{"a":5}]`, []value{whole(5), {}, {}}},
		{"another format", `a {"a":1}`, []value{{}, {}, {}}},
		{"a string", `"a" {"a":1}`, []value{{}, {}, {}}},
		{"no array", `[DONE]{"a":1}`, []value{{}, {}, {}}},
		{"brackets in strings", `{"x":[{"y":"]}\\"},"}\"]"],"a":4}`, []value{whole(4), {}, {}}},
		{"deep", `{"x":` + strings.Repeat(`[{"a":`, 1000) + `1` + strings.Repeat(`}]`, 1000) + `,"a":4}`, []value{whole(4), {}, {}}},
		{"a long name", `{"` + strings.Repeat("a", 100) + `":3,"a":4}`, []value{whole(4), {}, {}}},
		{"the same name again", `{"b":{"c":1,"d":2},"b":{"d":3}}`, []value{{}, {}, whole(3)}},
	} {
		for size := 1; size <= max(1, min(len(tt.text), 300)); size++ {
			require.Equal(t, tt.want, scan(t, tt.text, size, "/a", "/b/c", "/b/d"), "%s, in pieces of %d bytes", tt.name, size)
		}
	}
}

func TestScanner_pointersThatShareAWay(t *testing.T) {
	assert.Equal(t, []value{other, whole(1), whole(1)}, scan(t, `{"a":{"b":1}}`, 1, "/a", "/a/b", "/a/b"))
	assert.Equal(t, []value{whole(2), {}, {}}, scan(t, `{"a":2}`, 1, "/a", "/a/b", "/a/b"))
}

func TestScanner_aFieldAtSeveralPlaces(t *testing.T) {
	s := jsonpointer.NewScanner(jsonpointer.NewSet([]jsonpointer.Pointer{pointer(t, "/a"), pointer(t, "/m/a")}))
	for _, step := range []struct {
		text string
		want int64
	}{{`{"m":{"a":1}}`, 1}, {`{"a":2,"m":{}}`, 2}, {`{"m":{"a":3}}`, 3}, {`{"a":null}`, 3}} {
		s.Write([]byte(step.text))
		assert.Equal(t, whole(step.want), s.Value(0), step.text)
	}
}

func TestScanner_aTextThatBreaksEndsWithEndText(t *testing.T) {
	s := jsonpointer.NewScanner(jsonpointer.NewSet([]jsonpointer.Pointer{pointer(t, "/a")}))
	for i, broken := range []string{`{"a":1,`, `{"x":["\`, `{"x`, `]`, `{"a":1]`, `{"a":2`} {
		s.Write([]byte(broken))
		s.EndText()
		n := int64(100 + i)
		s.Write(fmt.Appendf(nil, `{"":"","a":%d}`, n))
		assert.Equal(t, whole(n), s.Value(0), broken)
	}
}

func TestScanner_allocatesNothingInWrite(t *testing.T) {
	s := jsonpointer.NewScanner(jsonpointer.NewSet([]jsonpointer.Pointer{pointer(t, "/usage/total_tokens")}))
	text := []byte(`{"id":"x","choices":[{"delta":{"content":"a\nb"}}],"usage":{"total_tokens":1234567}}`)
	assert.Zero(t, testing.AllocsPerRun(100, func() { s.Write(text) }))
}
