package cors_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/web/cors"
)

func fields(r cors.Rules, origin string, ours bool) map[string]string {
	got := map[string]string{}
	r.Fields(origin, ours, func(name, value string) { got[name] = value })
	return got
}

func TestFields(t *testing.T) {
	exposed := []string{"RateLimit", "Retry-After"}
	parse := func(origins ...string) cors.Rules {
		r, err := cors.ParseOrigins(origins, exposed)
		require.NoError(t, err)
		return r
	}
	const page = "https://app.example.com"
	vary := map[string]string{"Vary": "Origin"}
	upstream := map[string]string{"Vary": "Origin", "Access-Control-Expose-Headers": "RateLimit, Retry-After"}
	own := map[string]string{"Vary": "Origin", "Access-Control-Expose-Headers": "RateLimit, Retry-After", "Access-Control-Allow-Origin": page}
	two := parse(page, "http://localhost:5173")
	assert.Empty(t, fields(parse(), page, true), "nothing is configured")
	assert.Equal(t, own, fields(two, page, true))
	assert.Equal(t, upstream, fields(two, page, false))
	assert.Equal(t, vary, fields(two, "", true))
	for _, other := range []string{"https://evil.example", "https://app.example.com.evil.example", "https://APP.example.com", "http://app.example.com", "null", "*"} {
		assert.Equal(t, vary, fields(two, other, true), other)
		assert.Equal(t, vary, fields(two, other, false), other)
	}
	own["Access-Control-Allow-Origin"] = "*"
	assert.Equal(t, own, fields(parse("*"), "https://evil.example", true))
	assert.Equal(t, own, fields(parse("*"), "null", true))
	assert.Equal(t, vary, fields(parse("*"), "", true))
}

func TestParseOrigins_refusesWhatNoBrowserSends(t *testing.T) {
	const rule = "must be scheme://host, perhaps with a port, as in https://app.example.com, or *"
	for origin, want := range map[string]string{
		"": rule, "app.example.com": rule, "https://": rule, "https://app.example.com/": rule, "https://app.example.com/a": rule,
		"https://u@app.example.com": rule, "https://*.example.com": rule, "https://a.example?x": rule, "https://a.example#x": rule, "https://a b": rule,
		"null":                        "must not be null: any page can have this origin",
		"https://App.example.com":     "must be in lower case, as browsers send it",
		"https://app.example.com:443": "must be without this port, which browsers leave out",
		"http://app.example.com:80":   "must be without this port, which browsers leave out",
		"http://app.example.com:":     "must be without this port, which browsers leave out",
	} {
		_, err := cors.ParseOrigins([]string{"https://fine.example", origin}, nil)
		assert.EqualError(t, err, `CORS_ORIGINS: "`+origin+`": `+want)
	}
	_, err := cors.ParseOrigins([]string{"*", "https://a.example"}, nil)
	require.EqualError(t, err, `CORS_ORIGINS: "*": must stand alone: it is every origin`)
	for _, origin := range []string{"http://localhost:5173", "https://[2001:db8::1]:8443", "https://xn--bcher-kva.example", "chrome-extension://abcdef"} {
		_, err := cors.ParseOrigins([]string{origin}, nil)
		require.NoError(t, err, origin)
	}
}
