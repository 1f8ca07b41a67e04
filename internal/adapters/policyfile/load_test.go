package policyfile_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var update = flag.Bool("update", false, "write the schema of the code to deploy/")

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

func limit(t *testing.T, name, rate string, capacity domain.Tokens) domain.Limit {
	t.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

// The sample is the one of the service's contract, word for word.
func TestLoad_readsTheSample(t *testing.T) {
	set, err := policyfile.Load("testdata/valid/sample.yaml", policy.FailClosed)
	require.NoError(t, err)
	require.Len(t, set.All(), 3)

	tenant := clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-tenant"}}
	want := policy.Policy{
		Name:  "search",
		Match: policy.Match{Methods: []string{"GET"}, Host: "api.example.com", Path: "/api/search/**"},
		Key:   clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-client-id"}},
		Cost:  policy.Cost{Fixed: 1},
		Limits: []domain.Limit{
			limit(t, "burst", "5/s", 10), quota(t, "daily", 10_000, 1, "day", "Europe/Berlin", ""), permits(t, "parallel", 5, time.Minute),
			limit(t, "tenant", "100/s", 200),
		},
		LimitKeys:      map[string]clientkey.Key{"tenant": tenant},
		Overrides:      []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{limit(t, "burst", "50/s", 100)}, Line: 13}},
		Exempt:         []string{"health-*"},
		Block:          []string{"banned-1"},
		OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, want.Compile())
	assert.Equal(t, &want, set.All()[0])

	login := set.All()[1]
	assert.Equal(t, "edge", login.Match.Domain)
	assert.Equal(t, "generic_key=login", login.Match.Descriptor[0].String())
	assert.Equal(t, "remote_address", login.Match.Descriptor[1].String())
	assert.Equal(t, "5/m", login.Limits[0].Rate())
	assert.Equal(t, policy.FailClosed, login.OnStoreFailure, "the default is the settings'")

	found, err := set.Named("default")
	require.NoError(t, err)
	assert.Same(t, set.All()[2], found)
	_, err = set.Named("other")
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	found, err = set.Match(&policy.Request{Method: "HEAD", Host: "api.example.com", Path: "/api/search/x"})
	require.NoError(t, err)
	assert.Same(t, set.All()[0], found)
}

func TestParse_readsEveryField(t *testing.T) {
	set, err := policyfile.Parse([]byte(`
policies:
- "name": 'shop'     # an indented list is the same as one that is not
  key: [ip/48, cookie:sid, query:api_key]
  cost: header:X-Cost
  mode: shadow
  on_store_failure: local
  max_wait: 1500ms
  refund_on: [2xx, 503]
  block: [123, "1.5"]
  limits:
  - rate: 3/250ms
    capacity: 7
    key: global
`), "")
	require.NoError(t, err)
	p := set.All()[0]
	assert.Equal(t, "ip/48, cookie:sid, query:api_key", p.Key.String())
	assert.Equal(t, policy.Cost{Header: "x-cost"}, p.Cost)
	assert.Equal(t, policy.ModeShadow, p.Mode)
	assert.Equal(t, policy.FailLocal, p.OnStoreFailure)
	assert.Equal(t, 1500*time.Millisecond, p.MaxWait)
	assert.Equal(t, "2xx, 503", p.RefundOn.String())
	assert.Equal(t, []string{"123", "1.5"}, p.Block)
	assert.Equal(t, []domain.Limit{limit(t, "shop", "3/250ms", 7)}, p.Limits)
	assert.Equal(t, "global", p.LimitKeys["shop"].String())
	assert.Equal(t, policy.Match{}, p.Match)
}

func TestParse_aLimitWithoutANameHasItsPolicys(t *testing.T) {
	set, err := policyfile.Parse([]byte(`policies:
  - limits: [ { rate: 5/s, capacity: 10 }, { name: default, rate: 9/s, capacity: 9 } ]
    overrides:
      - { keys: ["partner-*"], limits: [ { rate: 50/s, capacity: 100 } ] }
      - { keys: ["friend"], limits: [ { name: login, rate: 20/s, capacity: 20 } ] }
    name: login
`), "")
	require.NoError(t, err)
	p := set.All()[0]
	assert.Equal(t, []domain.Limit{limit(t, "login", "5/s", 10), limit(t, "default", "9/s", 9)}, p.Limits)
	assert.Equal(t, []domain.Limit{limit(t, "login", "50/s", 100), limit(t, "default", "9/s", 9)}, p.RulesFor("partner-1", false).Groups[0].Limits)
	assert.Equal(t, []domain.Limit{limit(t, "login", "20/s", 20), limit(t, "default", "9/s", 9)}, p.RulesFor("friend", false).Groups[0].Limits)

	_, err = policyfile.Parse([]byte("policies:\n- name: a\n  limits:\n  - { rate: 5/s, capacity: 1 }\n  - { name: a, rate: 5/s, capacity: 1 }\n"), "")
	require.EqualError(t, err, `5:13: policies[0].limits[1].name: "a": there is a limit of this name on line 4`)
	_, err = policyfile.Parse([]byte("policies:\n- name: { a: 1 }\n  limits:\n  - { rate: 5/s, capacity: 1 }\n"), "")
	require.EqualError(t, err, `2:9: policies[0].name: a mapping: must be a text`)
}

func TestParse_acceptsWindowsLineEnds(t *testing.T) {
	sample := bytes.ReplaceAll(read(t, "testdata/valid/sample.yaml"), []byte("\n"), []byte("\r\n"))
	set, err := policyfile.Parse(append([]byte("\ufeff"), sample...), "")
	require.NoError(t, err)
	require.Len(t, set.All(), 3)
	_, err = policyfile.Parse(bytes.Replace(sample, []byte("mode: enforce"), []byte("mode: enforced"), 1), "")
	require.EqualError(t, err, `16:11: policies[0].mode: "enforced": must be enforce or shadow`)
}

// Each file has one error, and a line in broken.txt with the expected message.
func TestParse_reportsEachErrorWithItsPlace(t *testing.T) {
	want := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(read(t, "testdata/broken.txt")))
	for lines.Scan() {
		name, text, found := strings.Cut(lines.Text(), "\t")
		require.True(t, found, lines.Text())
		want[name] = strings.ReplaceAll(text, "VERSION", calendar.ZonesVersion())
	}
	files, err := filepath.Glob("testdata/broken/*.yaml")
	require.NoError(t, err)
	require.Len(t, want, len(files))
	for _, file := range files {
		_, err := policyfile.Load(file, "")
		assert.EqualError(t, err, want[strings.TrimSuffix(filepath.Base(file), ".yaml")], file)
		require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	}
}

func TestParse_reportsEveryErrorInTheOrderOfTheLines(t *testing.T) {
	_, err := policyfile.Parse([]byte(`policies:
  - name: A
    limits:
      - { rate: 5/s, capacity: 0 }
      - { name: x, rate: 5/x, capacity: 1 }
    mode: maybe
  - name: b
    limtis: []
`), "")
	var errs policyfile.Errors
	require.ErrorAs(t, err, &errs)
	assert.Equal(t, []string{
		`2:11: policies[0].name: "A": must match [a-z0-9][a-z0-9_-]{0,62}`,
		`4:32: policies[0].limits[0].capacity: 0: must be from 1 to 1000000000000`,
		`5:26: policies[0].limits[1].rate: "5/x": must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h or 3/250ms`,
		`6:11: policies[0].mode: "maybe": must be enforce or shadow`,
		`8:5: policies[1]: "limtis": is not a known field: did you mean limits?`,
	}, strings.Split(errs.Error(), "\n"))
	require.Len(t, errs.Unwrap(), 5)

	many := "policies:\n" + strings.Repeat("  - name: A\n", 1000)
	_, err = policyfile.Parse([]byte(many), "")
	require.ErrorAs(t, err, &errs)
	assert.Len(t, errs, 101)
	assert.Contains(t, errs[100].Error(), "more errors")
}

func TestLoad_fileThatCannotBeRead(t *testing.T) {
	_, err := policyfile.Load(filepath.Join(t.TempDir(), "none.yaml"), "")
	require.ErrorIs(t, err, os.ErrNotExist)
	big := filepath.Join(t.TempDir(), "big.yaml")
	require.NoError(t, os.WriteFile(big, bytes.Repeat([]byte("#"), 2<<20), 0o600))
	_, err = policyfile.Load(big, "")
	require.EqualError(t, err, "1:1: 1048577 bytes: must have at most 1048576 bytes")
}

// thousandPolicies makes n policies that differ in their paths.
func thousandPolicies(n int) string {
	var b strings.Builder
	b.WriteString("policies:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: service-%d\n    match: { methods: [GET, POST], path: \"/service-%d/**\" }\n    key: [ip, header:X-Tenant]\n"+
			"    limits:\n      - { name: burst, rate: 5/s, capacity: 10 }\n      - { name: daily, rate: 10000/24h, capacity: 10000 }\n", i, i)
	}
	return b.String()
}

func TestParse_aThousandPolicies(t *testing.T) {
	set, err := policyfile.Parse([]byte(thousandPolicies(1000)), "")
	require.NoError(t, err)
	require.Len(t, set.All(), 1000)
	found, err := set.Match(&policy.Request{Method: "GET", Path: "/service-987/x"})
	require.NoError(t, err)
	assert.Equal(t, "service-987", found.Name)
}

func TestParse_tenThousandOverrides(t *testing.T) {
	var b strings.Builder
	b.WriteString("policies:\n- name: a\n  limits: [ { rate: 5/s, capacity: 10 } ]\n  overrides:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "  - { keys: [\"partner-%d\"], limits: [ { rate: 5/s, capacity: %d } ] }\n", i, i+1)
	}
	set, err := policyfile.Parse([]byte(b.String()), "")
	require.NoError(t, err)
	assert.Equal(t, 9876, set.All()[0].RulesFor("partner-9876", false).Override)
}

// Files made to cost time or memory are refused. Only such a file can exceed the generous time limit.
func TestParse_refusesBombs(t *testing.T) {
	const size = 300_000
	bombs := map[string]string{
		"anchors":         "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
		"only anchors":    strings.Repeat("&a ", size/3),
		"tags":            strings.Repeat("!a ", size/3),
		"colons":          strings.Repeat(": ", size/2),
		"brackets":        strings.Repeat("[", size),
		"braces":          strings.Repeat("{a: ", size/4),
		"dashes":          strings.Repeat("- ", size/2),
		"question marks":  strings.Repeat("? ", size/2),
		"fields":          strings.Repeat("a: b\n", size/5),
		"fields in a row": "a: {" + strings.Repeat("a: b,", size/5) + "}",
		"fields of lists": strings.Repeat("-\n  a: b\n", size/10) + strings.Repeat("  a: b\n", size/20),
		"documents":       strings.Repeat("---\n", size/4),
		"directives":      strings.Repeat("%a\n", size/3),
		"staircase":       staircase(1000),
		"values":          "policies: [" + strings.Repeat("a,", size/2) + "]",
		"text":            "policies: " + strings.Repeat("a", size),
	}
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := policyfile.Parse([]byte(bomb), "")
			var errs policyfile.Errors
			require.ErrorAs(t, err, &errs)
			assert.Less(t, time.Since(start), 30*time.Second)
		})
	}
}

// staircase nests by indentation.
func staircase(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func TestNearest_acceptsOneMistakeInFourCharacters(t *testing.T) {
	known := []string{"name", "limits", "overrides"}
	for name, want := range map[string]string{
		"name": "name", "nam": "name", "naem": "name", "nmea": "name", "mean": "", "limit": "limits", "overide": "overrides", "ovrrdes": "overrides", "x": "", "": "",
	} {
		assert.Equal(t, want, policyfile.Nearest(name, known), name)
	}
}

func TestSchema_isTheOneThatEditorsAreGiven(t *testing.T) {
	const path = "../../../deploy/policy.schema.json"
	if *update {
		require.NoError(t, os.WriteFile(path, policyfile.Schema(), 0o600))
	}
	require.Equal(t, string(policyfile.Schema()), string(read(t, path)), "go test ./internal/adapters/policyfile -run Schema -update")
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(f, err)
	for _, file := range files {
		f.Add(read(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := policyfile.Parse(data, "")
		if err == nil {
			require.NotEmpty(t, set.All())
			require.Len(t, set.Version, 12)
			return
		}
		var errs policyfile.Errors
		require.ErrorAs(t, err, &errs)
		require.NotEmpty(t, errs)
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 1
		for _, e := range errs {
			require.Positive(t, e.Line)
			require.LessOrEqual(t, e.Line, lines)
			require.Positive(t, e.Column)
			require.NotContains(t, e.Error(), "\n")
		}
	})
}
