package envoyconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func load(t *testing.T, text string) (*envoyconfig.Rules, error) {
	t.Helper()
	return loadAs(t, envoyconfig.Options{OnStoreFailure: policy.FailOpen}, text)
}

func loadAs(t *testing.T, options envoyconfig.Options, text string) (*envoyconfig.Rules, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	rules, err := envoyconfig.Load(file, options)
	if err != nil {
		return rules, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), file, "rules.yaml"))
	}
	return rules, nil
}

// entries reads "key=value, key=value".
func entries(s string) (list []policy.DescriptorEntry) {
	for part := range strings.SplitSeq(s, ", ") {
		key, value, _ := strings.Cut(part, "=")
		list = append(list, policy.DescriptorEntry{Key: key, Value: value})
	}
	return list
}

// verdict says in a word what applies: "5/minute", with "shadow" after it, "unlimited", or "none".
func verdict(r *envoyconfig.Rule) string {
	switch {
	case r == nil:
		return "none"
	case r.Unlimited:
		return "unlimited"
	}
	text := fmt.Sprintf("%d/%s", r.Rate.Requests, r.Rate.Unit)
	if r.Shadow {
		text += " shadow"
	}
	return text
}

// The file has the forms that the documentation of envoyproxy/ratelimit shows.
func TestLoad_matchesAsDocumented(t *testing.T) {
	const published = `---
domain: edge
descriptors:
  # nested, with a limit on both levels
  - key: source
    value: proxy
    descriptors:
      - key: destination
        value: mock
        rate_limit: {unit: minute, requests_per_unit: 1}
  - key: foo
    rate_limit: {unit: Minute, requests_per_unit: 2}
    descriptors:
      - {key: bar, rate_limit: {unit: minute, requests_per_unit: 3}}
      - {key: bar, value: banned, rate_limit: {unit: minute, requests_per_unit: 0}}
      - {key: baz, rate_limit: {unit: second, requests_per_unit: 1}}
      - {key: baz, value: shady, rate_limit: {unit: minute, requests_per_unit: 1}, shadow_mode: true}
      - {key: bay, rate_limit: {unlimited: true}}
  - key: qux
    detailed_metric: true
    value_to_metric: false
    quota_mode: false
    rate_limit: {unlimited: true}
  - key: remote_address
    rate_limit: {unit: second, requests_per_unit: 10}
  - key: remote_address
    value: 50.0.0.5
    rate_limit: {unit: second, requests_per_unit: 0}
  - key: path
    value: /api/*
    rate_limit: {unit: hour, requests_per_unit: 20}
  - key: path
    value: /api/v1/*
    rate_limit: {unit: hour, requests_per_unit: 21}
  - key: path
    value: /api/v1/exact
    rate_limit: {unit: day, requests_per_unit: 22}
  - key: status
    value: 404
    rate_limit: {unit: week, requests_per_unit: 5}
  - key: allowed
  - key: database
    rate_limit:
`
	rules, err := load(t, published)
	require.NoError(t, err)
	assert.Equal(t, 14, rules.Len())
	for descriptor, want := range map[string]string{
		"source=proxy, destination=mock":  "1/minute",
		"source=proxy, destination=other": "none",
		"source=other, destination=mock":  "none",
		"source=proxy":                    "none",
		"foo=1":                           "2/minute",
		"foo=1, bar=2":                    "3/minute",
		"foo=1, bar=banned":               "0/minute",
		"foo=1, bar=2, baz=3":             "none", // deeper than the file
		"foo=1, baz=2":                    "1/second",
		"foo=1, baz=shady":                "1/minute shadow",
		"foo=1, bay=2":                    "unlimited",
		"bar=2":                           "none",
		"qux=":                            "unlimited",
		"remote_address=10.0.0.1":         "10/second",
		"remote_address=50.0.0.5":         "0/second", // the value goes before the key alone
		"path=/api/x":                     "20/hour",
		"path=/api/v1/x":                  "20/hour", // the first wildcard of the file that matches
		"path=/api/v1/exact":              "22/day",  // the exact value goes before wildcards
		"path=/other":                     "none",
		"status=404":                      "5/week",
		"allowed=x":                       "none",
		"database=x":                      "none",
	} {
		assert.Equal(t, want, verdict(rules.Find("edge", entries(descriptor))), descriptor)
	}
	assert.Nil(t, rules.Find("other", entries("foo=1")))
	assert.True(t, rules.Knows("edge"))
	assert.False(t, rules.Knows("other"))
}

func TestLoad_aRuleIsABucketOfItsUnit(t *testing.T) {
	rules, err := load(t, `{domain: d, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 5, name: five, replaces: [{name: a}, {name: b}]}}]}`)
	require.NoError(t, err)
	r := rules.Find("d", entries("k=v"))
	require.NotNil(t, r)
	assert.Equal(t, "five", r.Name)
	assert.Equal(t, []string{"a", "b"}, r.Replaces)
	require.NotNil(t, r.Policy)
	assert.Equal(t, "default: 5/24h, capacity 5", r.Policy.Limits[0].String())
	assert.Equal(t, "envoy-d-k", r.Policy.Name)
	assert.Equal(t, policy.FailOpen, r.Policy.OnStoreFailure)
	assert.True(t, r.Policy.Compiled())
}

// The windows of a quota are those of envoyproxy/ratelimit: its counters are named by the start (now / seconds) * seconds, and its
// answers say seconds - now % seconds, in seconds since 1970.
func TestLoad_aRuleIsAQuotaOfItsUnitsWindows(t *testing.T) {
	for _, unit := range []struct {
		name    string
		limit   string
		seconds int64
	}{
		{"second", "default: quota 5/1s", 1},
		{"minute", "default: quota 5/1m", 60},
		{"hour", "default: quota 5/1h", 60 * 60},
		{"day", "default: quota 5/24h", 60 * 60 * 24},
		{"week", "default: quota 5/168h", 60 * 60 * 24 * 7},
		{"month", "default: quota 5/720h", 60 * 60 * 24 * 30},
		{"year", "default: quota 5/8760h", 60 * 60 * 24 * 365},
	} {
		rules, err := loadAs(t, envoyconfig.Options{Quotas: true, OnStoreFailure: policy.FailClosed},
			"{domain: d, descriptors: [{key: k, rate_limit: {unit: "+unit.name+", requests_per_unit: 5}}]}")
		require.NoError(t, err)
		r := rules.Find("d", entries("k=v"))
		require.NotNil(t, r)
		assert.True(t, r.Quota)
		assert.Equal(t, "envoy-d-k", r.Policy.Name)
		assert.Equal(t, policy.FailClosed, r.Policy.OnStoreFailure)
		assert.Equal(t, unit.limit, r.Policy.Limits[0].String())
		assert.EqualValues(t, 5, r.Policy.Limits[0].Capacity())
		for _, now := range []int64{0, 1, 1_781_515_829, 1_789_999_999, 1_790_000_000, 3_155_759_999} {
			first := domain.Instant(now * 1_000_000)
			start, end, next := r.Policy.Limits[0].Quota().Periods().At(first)
			assert.Equal(t, domain.Instant(now/unit.seconds*unit.seconds*1_000_000), start, "%s at %d", unit.name, now)
			assert.Equal(t, r.Rate.Unit.Span(), end.Sub(start), "%s at %d", unit.name, now)
			assert.Equal(t, r.Rate.Unit.Span(), next.Sub(end), "%s at %d", unit.name, now)
			reset := time.Duration(unit.seconds-now%unit.seconds) * time.Second
			assert.Equal(t, reset, r.Rate.Unit.UntilWindowEnds(first), "%s at %d", unit.name, now)
			assert.Equal(t, reset, r.Rate.Unit.UntilWindowEnds(first+999_999), "%s at the end of %d", unit.name, now)
		}
	}
}

func TestLoad_aQuotaFitsWhereABucketDoesNot(t *testing.T) {
	const text = "{domain: d, descriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 4294967291}}]}"
	_, err := load(t, text)
	require.ErrorContains(t, err, "the nearest rate that fits is")
	rules, err := loadAs(t, envoyconfig.Options{Quotas: true, OnStoreFailure: policy.FailOpen}, text)
	require.NoError(t, err)
	assert.Equal(t, "4294967291/year", verdict(rules.Find("d", entries("k=v"))))
}

// With share_threshold all values that match a wildcard share one bucket, on each level that has it.
func TestRule_entriesNameTheBucket(t *testing.T) {
	rules, err := load(t, `
domain: d
descriptors:
  - key: path
    value: files*
    share_threshold: true
    descriptors:
      - key: user
        rate_limit: {unit: day, requests_per_unit: 5}
  - key: path
    value: other*
    rate_limit: {unit: day, requests_per_unit: 5}
`)
	require.NoError(t, err)
	for descriptor, want := range map[string]string{
		"path=files/a, user=x": "domain=d, path=files*, user=x",
		"path=files/b, user=y": "domain=d, path=files*, user=y",
		"path=other/a":         "domain=d, path=other/a",
	} {
		r := rules.Find("d", entries(descriptor))
		require.NotNil(t, r, descriptor)
		assert.Equal(t, entries(want), r.Entries(nil, "d", entries(descriptor)))
	}
}

func TestLoad_refusesWhatIsNotSupported(t *testing.T) {
	const head = "domain: d\ndescriptors:\n"
	for text, want := range map[string]string{
		"":                             "rules.yaml:1:1: is empty",
		"- a\n":                        "rules.yaml:1:1: a configuration must be a mapping",
		"descriptors: []\n":            "domain: must be there, and must not be empty",
		"domain: d\ncolour: red\n":     `rules.yaml:2:1: "colour": is not a field of a configuration that Velocity supports`,
		head + "  key: x\n":            "rules.yaml:3:6: descriptors must be a list",
		head + "  - value: x\n":        "key: must be there, and must not be empty",
		head + "  - key: x*\n":         `rules.yaml:3:5: key: "x*": must not end with *: a wildcard stands at the end of a value`,
		head + "  - {key: x, rate: 5}": `rules.yaml:3:14: "rate": is not a field of a descriptor that Velocity supports`,
		head + "  - key: x\n    quota_mode: true\n":                                          "rules.yaml:4:5: quota_mode: true is not supported",
		head + "  - key: x\n    share_threshold: true\n":                                     "rules.yaml:4:5: share_threshold: needs a value that ends with *",
		head + "  - key: x\n    shadow_mode: yes\n":                                          `rules.yaml:4:18: shadow_mode: "yes": must be true or false`,
		head + "  - {key: x, value: y}\n  - {key: x, value: y}\n":                            `rules.yaml:4:6: there are two descriptors of key "x" and value "y" in this list`,
		head + "  - {key: x, rate_limit: {unit: fortnight, requests_per_unit: 1}}":           `rules.yaml:3:27: unit: "fortnight": must be second, minute, hour, day, week, month or year`,
		head + "  - {key: x, rate_limit: {requests_per_unit: 1}}":                            `unit: "": must be second`,
		head + "  - {key: x, rate_limit: {unit: day}}":                                       "requests_per_unit: is missing",
		head + "  - {key: x, rate_limit: {unit: day, requests_per_unit: -1}}":                `requests_per_unit: "-1": must be a whole number from 0 to 4294967295`,
		head + "  - {key: x, rate_limit: {unit: day, requests_per_unit: 4294967296}}":        "must be a whole number",
		head + "  - {key: x, rate_limit: {unit: day, requests_per_unit: 1.5}}":               "must be a whole number",
		head + "  - {key: x, rate_limit: {unit: day, requests_per_unit: '5'}}":               "must be a whole number",
		head + "  - {key: x, rate_limit: {unit: day, unlimited: true}}":                      "unlimited must not have unit or requests_per_unit",
		head + "  - {key: x, rate_limit: {unit: year, requests_per_unit: 4294967291}}":       "the nearest rate that fits is",
		head + "  - {key: x, rate_limit: {unlimited: true, algorithm: gcra}}":                `"algorithm": is not a field of rate_limit that Velocity supports`,
		head + "  - {key: x, rate_limit: {unlimited: true, replaces: [{}]}}":                 "replaces: name: must be there",
		head + "  - {key: x, rate_limit: {unlimited: true, name: a, replaces: [{name: a}]}}": `replaces: "a": is the name of this limit itself`,
		head + "  - &a {key: x}\n  - *a\n":                                                   "anchors, aliases, merge keys, tags and directives are not supported",
		head + "  - {key: [x]}\n":                                                            "key must be a text",
		"domain: d\n---\ndomain: e\n":                                                        "rules.yaml:3:7: there must be one document",
		"domain: [d\n":                                                                       "is not YAML",
		"domain: d\ndomain: e\n":                                                             "is not YAML",
		"domain: d\ndescriptors: " + strings.Repeat("[", 100):                                "nests deeper than 64 levels",
		"domain: d\ndescriptors: " + strings.Repeat("- ", 100):                               "nests deeper than 64 levels",
		"domain: \xff\n": "must be text in UTF-8",
	} {
		rules, err := load(t, text)
		assert.Nil(t, rules, text)
		assert.ErrorContains(t, err, want, text)
	}
}

func TestLoad_reportsEverythingAtOnce(t *testing.T) {
	_, err := load(t, "domain: d\ndescriptors:\n  - {key: a, rate_limit: {unit: aeon, requests_per_unit: 1}}\n  - {key: b, quota_mode: true}\n")
	require.ErrorContains(t, err, "rules.yaml:3:")
	require.ErrorContains(t, err, "rules.yaml:4:")
}

func TestLoad_aFolderHasOneFileForEachDomain(t *testing.T) {
	dir, options := t.TempDir(), envoyconfig.Options{OnStoreFailure: policy.FailOpen}
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	_, err := envoyconfig.Load(dir, options)
	require.ErrorContains(t, err, "there is no .yaml file in this folder")
	write("a.yaml", "{domain: a, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]}")
	write("b.yml", "{domain: b, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 2}}]}")
	write("README.md", "not a configuration")
	write(".hidden.yaml", "not: read")
	rules, err := envoyconfig.Load(dir, options)
	require.NoError(t, err)
	assert.Equal(t, "1/day", verdict(rules.Find("a", entries("k=v"))))
	assert.Equal(t, "2/day", verdict(rules.Find("b", entries("k=v"))))
	write("c.yaml", "domain: a")
	_, err = envoyconfig.Load(dir, options)
	require.ErrorContains(t, err, `c.yaml: domain: "a": is also the domain of `)
}

func FuzzLoad(f *testing.F) {
	f.Add("domain: d\ndescriptors:\n  - {key: x, value: y*, rate_limit: {unit: day, requests_per_unit: 1, replaces: [{name: a}]}}\n")
	f.Add("domain: d\ndescriptors: [{key: a, descriptors: [{key: b, rate_limit: {unlimited: true}}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := load(t, text)
		if err == nil {
			rules.Find("d", entries("x=y, b=c"))
		}
	})
}
