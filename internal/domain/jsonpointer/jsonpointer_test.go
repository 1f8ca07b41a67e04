package jsonpointer_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
)

func ExampleParse() {
	p, err := jsonpointer.Parse("/usage/total_tokens")
	fmt.Println(p, p.Names(), err)
	// Output: /usage/total_tokens [usage total_tokens] <nil>
}

func TestParse_namesHaveNoEscapes(t *testing.T) {
	for text, want := range map[string][]string{
		"/":             {""},
		"//":            {"", ""},
		"/a":            {"a"},
		"/a/0/b":        {"a", "0", "b"},
		"/a~1b":         {"a/b"},
		"/m~0n":         {"m~n"},
		"/~01":          {"~1"},
		"/~10~0~00":     {"/0~~0"},
		"/c%d":          {"c%d"},
		`/k"l\`:         {`k"l\`},
		"/größe/トークン/ ": {"größe", "トークン", " "},
	} {
		p, err := jsonpointer.Parse(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, p.Names(), text)
		assert.Equal(t, text, p.String())
		assert.False(t, p.IsZero())
	}
}

func TestParse_refuses(t *testing.T) {
	for text, why := range map[string]string{
		"":            "slash",
		"usage":       "slash",
		"#/usage":     "slash",
		"/~":          "~0",
		"/a~/b":       "~0",
		"/a~2":        "~0",
		"/\xff":       "UTF-8",
		"/\xe3\x83/a": "UTF-8",
		"/" + strings.Repeat("a", jsonpointer.MaxLength): "1024",
	} {
		p, err := jsonpointer.Parse(text)
		require.ErrorContains(t, err, why, text)
		assert.True(t, p.IsZero())
	}
}

func TestIndex(t *testing.T) {
	for name, want := range map[string]int{
		"0": 0, "7": 7, "10": 10, "999999999": 999_999_999,
		"": -1, "00": -1, "01": -1, "-": -1, "-1": -1, "+1": -1, "1.0": -1, "a": -1, "1000000000": -1, "१": -1,
	} {
		assert.Equal(t, want, jsonpointer.Index(name), name)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", "/~0~1/0", "/~2", "a", "/\xff"} {
		f.Add(seed)
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := jsonpointer.Parse(text)
		if err != nil {
			require.True(t, p.IsZero())
			return
		}
		var again strings.Builder
		for _, name := range p.Names() {
			again.WriteString("/" + escape.Replace(name))
		}
		require.Equal(t, text, again.String())
	})
}
