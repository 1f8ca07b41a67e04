package jsonpointer_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
)

func pointer(t testing.TB, text string) jsonpointer.Pointer {
	p, err := jsonpointer.Parse(text)
	require.NoError(t, err)
	return p
}

func TestFindNumber(t *testing.T) {
	for _, tt := range []struct {
		pointer, body string
		want          int64 // 0: not found
	}{
		{"/max_tokens", `{"model":"m","max_tokens":256}`, 256},
		{"/max_tokens", ` { "max_tokens" : 1 } `, 1},
		{"/max_tokens", `{"max_tokens":9223372036854775807}`, 9223372036854775807},
		{"/max_tokens", `{"max_tokens":9223372036854775808}`, 0},
		{"/max_tokens", `{"max_tokens":100000000000000000000000000000000000000000000000000000000000000000000000000000000}`, 0},
		{"/max_tokens", `{"max_tokens":0}`, 0},
		{"/max_tokens", `{"max_tokens":-1}`, 0},
		{"/max_tokens", `{"max_tokens":1.5}`, 0},
		{"/max_tokens", `{"max_tokens":1e3}`, 1000},
		{"/max_tokens", `{"max_tokens":256.0}`, 256},
		{"/max_tokens", `{"max_tokens":"256"}`, 0},
		{"/max_tokens", `{"max_tokens":null}`, 0},
		{"/max_tokens", `{"max_tokens":[256]}`, 0},
		{"/max_tokens", `{"max_tokens":{"max_tokens":256}}`, 0},
		{"/max_tokens", `{"a":{"max_tokens":256}}`, 0},
		{"/max_tokens", `{"a":["max_tokens",256]}`, 0},
		{"/max_tokens", `{"a":"\"max_tokens\":256"}`, 0},
		{"/max_tokens", `{"MAX_TOKENS":256}`, 0},
		{"/max_tokens", `{"max_tokens":256`, 0},
		{"/max_tokens", `{"max_tokens":256}}`, 0},
		{"/max_tokens", `[{"max_tokens":256}]`, 0},
		{"/max_tokens", `256`, 0},
		{"/max_tokens", ``, 0},
		{"/max_tokens", `{"\u006dax_tokens":256}`, 256},
		{"/max_tokens", `{"max_tokens":1,"max_tokens":2}`, 2},
		{"/max_tokens", `{"max_tokens":1,"max_tokens":null}`, 0},
		{"/a/b", `{"a":{"b":7}}`, 7},
		{"/a/b", `{"a":{"b":7},"a":{}}`, 0},
		{"/a/b", `{"a":{"b":7},"a":5}`, 0},
		{"/a/b", `{"a":[{"b":7}]}`, 0},
		{"/a/1/b", `{"a":[{"b":7},{"b":8},{"b":9}]}`, 8},
		{"/a/1", `{"a":[[1,2],3]}`, 3},
		{"/a/1", `{"a":{"1":4}}`, 4},
		{"/a/01", `{"a":[1,2]}`, 0},
		{"/a/-", `{"a":[1,2]}`, 0},
		{"/0/b", `[{"b":6}]`, 6},
		{"/a~1b/m~0n", `{"a/b":{"m~n":5}}`, 5},
		{"/größe/", `{"gr\u00f6\u00dfe":{"":3}}`, 3},
		{"/𝄞", `{"\ud834\udd1e":3}`, 3},
		{`/k"l\`, `{"k\"l\\":3}`, 3},
	} {
		n, found := pointer(t, tt.pointer).FindNumber([]byte(tt.body))
		assert.Equal(t, tt.want, n*int64(map[bool]int{true: 1}[found]), "%s in %s", tt.pointer, tt.body)
		assert.Equal(t, tt.want > 0, found, "%s in %s", tt.pointer, tt.body)
	}
	_, found := jsonpointer.Pointer{}.FindNumber([]byte(`{"":1}`))
	assert.False(t, found)
}

func TestFindNumbers_readsTheTextOnceForAll(t *testing.T) {
	pointers := []jsonpointer.Pointer{pointer(t, "/b"), {}, pointer(t, "/a/1/n"), pointer(t, "/none"), pointer(t, "/b"), pointer(t, "/c"), pointer(t, "/a/0")}
	body := []byte(`{"a":[3,{"n":7}],"b":5,"c":0}`)
	assert.Equal(t, []int64{5, 0, 7, 0, 5, 0, 3}, jsonpointer.FindNumbers(body, pointers...))
	assert.Equal(t, make([]int64, 7), jsonpointer.FindNumbers(body[:len(body)-1], pointers...), "it is no JSON")
	assert.Empty(t, jsonpointer.FindNumbers(body))
}

func TestFindNumber_readsAtMostOneMebibyte(t *testing.T) {
	p := pointer(t, "/n")
	body := `{"pad":"` + strings.Repeat("x", jsonpointer.MaxText-len(`{"pad":"","n":5}`)) + `","n":5}`
	require.Len(t, body, jsonpointer.MaxText)
	n, found := p.FindNumber([]byte(body))
	assert.True(t, found)
	assert.Equal(t, int64(5), n)
	_, found = p.FindNumber([]byte(body + " "))
	assert.False(t, found)
	_, found = p.FindNumber([]byte(`{"pad":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"n":5}`))
	assert.False(t, found, "deeper than encoding/json reads")
}

// lookUp is FindNumber by encoding/json.
func lookUp(body []byte, p jsonpointer.Pointer) int64 {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if !json.Valid(body) || d.Decode(&v) != nil {
		return 0
	}
	for _, name := range p.Names() {
		switch c := v.(type) {
		case map[string]any:
			v = c[name]
		case []any:
			v = nil
			if i := jsonpointer.Index(name); i >= 0 && i < len(c) {
				v = c[i]
			}
		default:
			return 0
		}
	}
	number, _ := v.(json.Number)
	text := number.String()
	e := strings.IndexAny(text, "eE")
	if len(text) > 32 || e >= 0 && len(strings.TrimLeft(text[e+1:], "+-0")) > 3 {
		return 0 // longer than any that is read, or too large to be computed here
	}
	n, ok := new(big.Rat).SetString(text)
	if !ok || !n.IsInt() || n.Sign() < 0 || !n.Num().IsInt64() {
		return 0
	}
	return n.Num().Int64()
}

func FuzzFindNumber(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":7},"a":{}}`, `{"a":[1,{"b":2}],"c":"\"a"}`, `[{"a":1},[],{"b":[{}]}]`, `{"\u0061":{"b":1e3}}`, `{"a":{"b":00}}`,
		`{"a" : [ {"b":-0} , {"b":5} ] }`, `{"x":[{"a":"]}"}],"a":12}`, `{"a":{"b":null,"b":3,"0":4}}`, `{"a":1}x`, `{"":{"":1}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, text := range []string{"/a", "/a/b", "/a/1/b", "/a/0", "/0", "/0/a", "/", "//"} {
			p := pointer(t, text)
			n, found := p.FindNumber(body)
			want := lookUp(body, p)
			require.Equal(t, want, n, "%s in %q", text, body)
			require.Equal(t, want > 0, found)
		}
	})
}
