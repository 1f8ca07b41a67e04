package policyfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
)

// deniedBy is a policy file whose policy has this field denied.
func deniedBy(denied string) []byte {
	return []byte("policies:\n  - name: default\n    limits: [ { rate: 5/s, capacity: 10 } ]\n    denied: " + denied + "\n")
}

func TestParse_readsDenials(t *testing.T) {
	for denied, want := range map[string]struct {
		status            int
		contentType, body string
	}{
		"{ status: 503 }": {503, "", ""},
		`{ content_type: application/json, body: '{"wait":{retry_after}}' }`:    {0, "application/json", `{"wait":7}`},
		"\n      content_type: text/plain\n      body: |\n        a\n        b": {0, "text/plain; charset=utf-8", "a\nb\n"},
		"\n      status: 503\n      content_type: text/plain\n      body: 429":  {503, "text/plain; charset=utf-8", "429"},
	} {
		set, err := policyfile.Parse(deniedBy(denied), "")
		require.NoError(t, err, denied)
		got := set.All()[0].Denied
		assert.Equal(t, want.status, got.Status(), denied)
		assert.Equal(t, want.contentType, got.ContentType(), denied)
		assert.Equal(t, want.body, string(got.AppendBody(nil, denial.Values{RetryAfter: 7})), denied)
	}
	set, err := policyfile.Parse([]byte("policies: [ { name: a, limits: [ { rate: 5/s, capacity: 10 } ], skip_preflight: true } ]\n"), "")
	require.NoError(t, err)
	assert.True(t, set.All()[0].SkipPreflight)
	assert.Nil(t, set.All()[0].Denied)
}

func TestLoad_findsBodiesFromTheFolderOfTheFile(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, "pages"), 0o700))
	path, page := filepath.Join(folder, "policies.yaml"), filepath.Join(folder, "pages", "denied.html")
	write(t, page, []byte("<p>{limit}</p>"))
	for _, named := range []string{"pages/denied.html", page} {
		write(t, path, deniedBy("{ content_type: text/html, body_file: "+named+" }"))
		set, err := policyfile.Load(path, "")
		require.NoError(t, err)
		assert.Equal(t, "<p>10</p>", string(set.All()[0].Denied.AppendBody(nil, denial.Values{Limit: 10})))
	}
	for text, want := range map[string]string{
		"":                         `4:51: policies[0].denied.body_file: "pages/denied.html": is empty: a body has some text`,
		strings.Repeat("x", 65537): `4:51: policies[0].denied.body_file: "pages/denied.html": has 65537 bytes: must have at most 65536`,
	} {
		write(t, path, deniedBy("{ content_type: text/html, body_file: pages/denied.html }"))
		write(t, page, []byte(text))
		_, err := policyfile.Load(path, "")
		assert.EqualError(t, err, want)
	}
}

// TestLive_followsTheFilesOfBodies: also one that was missing, or wrong, when the policy file was read.
func TestLive_followsTheFilesOfBodies(t *testing.T) {
	folder := t.TempDir()
	path, page := filepath.Join(folder, "policies.yaml"), filepath.Join(folder, "denied.html")
	write(t, path, deniedBy("{ content_type: text/html, body_file: denied.html }"))
	write(t, page, []byte("one"))
	live, _ := open(t, path)
	body := func() string { return string(live.All()[0].Denied.AppendBody(nil, denial.Values{})) }
	assert.False(t, live.Follow())
	assert.Equal(t, policyfile.Status{Version: live.Status().Version, Policies: 1}, live.Status(), "nothing has changed")

	version := live.Status().Version
	write(t, page, []byte("two, longer"))
	assert.False(t, live.Follow())
	assert.Equal(t, "two, longer", body())
	assert.NotEqual(t, version, live.Status().Version)

	write(t, page, []byte("a {wrong} body"))
	assert.True(t, live.Follow(), "it may still be being written")
	assert.False(t, live.Follow())
	assert.False(t, live.Follow())
	assert.Equal(t, "two, longer", body())
	assert.EqualValues(t, 1, live.Status().Failed, "it is reported once")
	assert.True(t, live.Status().Stale)
	write(t, page, []byte("three"))
	assert.False(t, live.Follow())
	assert.Equal(t, "three", body())

	write(t, path, deniedBy("{ content_type: text/html, body_file: later.html }"))
	assert.True(t, live.Follow())
	assert.False(t, live.Follow())
	assert.Equal(t, "three", body())
	write(t, filepath.Join(folder, "later.html"), []byte("four"))
	assert.False(t, live.Follow())
	assert.Equal(t, "four", body())
	assert.False(t, live.Status().Stale)
}
