package accesslog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFormats_requestsAreRead(t *testing.T) {
	t.Parallel()
	const noon, noonUTC = "10/Oct/2026:12:00:00 +0000", "2026-10-10T12:00:00.000000Z"
	for name, tc := range map[string]struct {
		line string
		want request
	}{
		"common": {
			`192.0.2.1 - frank [10/Oct/2026:05:00:00 -0700] "GET /a.gif HTTP/1.0" 200 2326`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a.gif", Status: 200},
		},
		"common without a size": {
			`192.0.2.1 - - [` + noon + `] "POST /a HTTP/1.1" 304 -`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "POST", Path: "/a", Status: 304},
		},
		"combined, IPv6 and a query": {
			`2001:db8::1 - - [` + noon + `] "GET /a/b?q=x%20y HTTP/1.1" 200 5 "https://example.com/" "curl/8"`,
			request{Time: noonUTC, Client: "2001:db8::1", Method: "GET", Path: "/a/b", Status: 200},
		},
		"combined with fields of one's own behind": {
			`192.0.2.1 - - [` + noon + `] "GET /a HTTP/2.0" 200 5 "-" "x" "10.0.0.1" 0.003 abc`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a", Status: 200},
		},
		"combined of a virtual host": {
			`api.example.com:443 192.0.2.1 - - [` + noon + `] "GET /a HTTP/1.1" 200 5 "-" "x"`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Host: "api.example.com:443", Path: "/a", Status: 200},
		},
		"a user with spaces": {
			`192.0.2.1 - a b c [` + noon + `] "GET /a HTTP/1.1" 200 5`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a", Status: 200},
		},
		"escapes of Apache": {
			`192.0.2.1 - - [` + noon + `] "GET /a\"b\\c\td HTTP/1.1" 200 5 "say \"hi\"" "x"`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a\"b\\c\td", Status: 200},
		},
		"escapes of nginx": {
			`192.0.2.1 - - [` + noon + `] "GET /a\x22b\x5Cc\xC3\xA4 HTTP/1.1" 200 5 "-" "x"`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a\"b\\c\u00e4", Status: 200},
		},
		"a space in the path": {
			`192.0.2.1 - - [` + noon + `] "GET /a b HTTP/1.1" 200 5`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a b", Status: 200},
		},
		"a path without a version, as HTTP/0.9 has it": {
			`192.0.2.1 - - [` + noon + `] "GET /a" 200 5`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a", Status: 200},
		},
		"a whole URL, as a proxy is asked": {
			`192.0.2.1 - - [` + noon + `] "GET http://example.com:80/a?b HTTP/1.1" 200 5`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Host: "example.com:80", Path: "/a", Status: 200},
		},
		"HEAD": {
			`192.0.2.1 - - [` + noon + `] "HEAD /a HTTP/1.1" 200 0`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "HEAD", Path: "/a", Status: 200},
		},
		"nginx, variables under their names": {
			`{"time_iso8601":"2026-10-10T14:00:00+02:00","remote_addr":"192.0.2.1","request_method":"GET",` +
				`"request_uri":"/a?b=c","host":"example.com","status":"404","http_x_client_id":"alice"}`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Host: "example.com", Path: "/a", Status: 404},
		},
		"nginx, the request line and milliseconds": {
			`{"msec":"1791633600.250","remote_addr":"::1","request":"GET /a HTTP/1.1","status":200}`,
			request{Time: "2026-10-10T12:00:00.250000Z", Client: "::1", Method: "GET", Path: "/a", Status: 200},
		},
		"nginx, what an upstream's own time says does not count": {
			`{"time":"x","msec":1791633600,"uri":"/index.html","request_uri":"/","request_method":"GET","client_ip":"192.0.2.9",` +
				`"remote_addr":"10.0.0.1","nested":{"status":500},"status":200}`,
			request{Time: noonUTC, Client: "192.0.2.9", Method: "GET", Path: "/", Status: 200},
		},
		"escapes of JSON": {
			`{"msec":1791633600,"remote_addr":"192.0.2.1","request":"GET /a\u0022\\b\u00e4 HTTP/1.1","status":200}`,
			request{Time: noonUTC, Client: "192.0.2.1", Method: "GET", Path: "/a\"\\b\u00e4", Status: 200},
		},
		"Caddy": {
			`{"level":"info","ts":1791633600.1234567,"logger":"http.log.access","msg":"handled request","request":{` +
				`"remote_ip":"10.0.0.1","remote_port":"52","client_ip":"192.0.2.1","proto":"HTTP/2.0","method":"GET",` +
				`"host":"example.com","uri":"/a?b","headers":{"User-Agent":["x"]},"tls":{"resumed":false}},` +
				`"bytes_read":0,"user_id":"","duration":0.001,"size":5,"status":200,"resp_headers":{"Server":["Caddy"]}}`,
			request{Time: "2026-10-10T12:00:00.123456Z", Client: "192.0.2.1", Method: "GET", Host: "example.com", Path: "/a", Status: 200},
		},
		"Caddy before 2.5": {
			`{"ts":1791633600,"request":{"remote_addr":"[2001:db8::1]:52","method":"GET","host":"e","uri":"/"},"status":200}`,
			request{Time: noonUTC, Client: "2001:db8::1", Method: "GET", Host: "e", Path: "/", Status: 200},
		},
	} {
		got, stats := read(t, plainConfig, tc.line)
		tc.want.Line = 1
		if assert.Len(t, got, 1, "%s: %+v", name, stats) {
			assert.Equal(t, tc.want, got[0], name)
		}
	}
}

func TestFormats_timesAreExact(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		`1791633600`:                            "2026-10-10T12:00:00.000000Z",
		`"1791633600.5"`:                        "2026-10-10T12:00:00.500000Z",
		`1791633600.1234569`:                    "2026-10-10T12:00:00.123456Z",
		`1791633600123`:                         "2026-10-10T12:00:00.123000Z",
		`1791633600123.4569`:                    "2026-10-10T12:00:00.123456Z",
		`1791633600123456`:                      "2026-10-10T12:00:00.123456Z",
		`1791633600123456789`:                   "2026-10-10T12:00:00.123456Z",
		`"2026-10-10T12:00:00Z"`:                "2026-10-10T12:00:00.000000Z",
		`"2026-10-10T12:00:00.123456789+02:00"`: "2026-10-10T10:00:00.123456Z",
		`"2026-10-10T00:30:00-0130"`:            "2026-10-10T02:00:00.000000Z",
		`"2026-10-10 12:00:00,5"`:               "2026-10-10T12:00:00.500000Z",
		`"2026/10/10 12:00:00.001"`:             "2026-10-10T12:00:00.001000Z",
		`"10/Oct/2026:12:00:00 +0530"`:          "2026-10-10T06:30:00.000000Z",
		`"2016-12-31T23:59:60Z"`:                "2017-01-01T00:00:00.000000Z",
		`"2024-02-29T00:00:00Z"`:                "2024-02-29T00:00:00.000000Z",
	} {
		got, stats := read(t, plainConfig, `{"ts":`+written+`,"client_ip":"192.0.2.1","request":"GET / HTTP/1.1"}`)
		if assert.Len(t, got, 1, "%s: %+v", written, stats) {
			assert.Equal(t, want, got[0].Time, written)
		}
	}
	for _, wrong := range []string{
		`""`, `null`, `true`, `-1`, `1e9`, `"tomorrow"`, `"2026-13-01T00:00:00Z"`, `"1969-12-31T23:59:59Z"`, `"2026-02-30T00:00:00Z"`, `"2026-01-01T24:00:00Z"`,
		`"2026-01-01T00:60:00Z"`, `"2026-01-01T00:00:00+2"`, `"2026-01-01T00:00:00 CEST"`, `"10/Okt/2026:12:00:00 +0000"`,
		`"10/Oct/2026:12:00:00 0000"`, `99999999999999999999`, `"2026-01-01T00:00:00."`, `"1.5.5"`, `[1]`,
	} {
		got, stats := read(t, plainConfig, `{"ts":`+wrong+`,"client_ip":"192.0.2.1","request":"GET / HTTP/1.1"}`)
		assert.Empty(t, got, wrong)
		require.Len(t, stats.MalformedExamples, 1, wrong)
		assert.Contains(t, stats.MalformedExamples[0].Reason, "time", wrong)
	}
}

func TestFormats_aMalformedLineIsCountedWithItsNumberAndReason(t *testing.T) {
	t.Parallel()
	good := at(0, "/")
	for line, reason := range map[string]string{
		`nonsense`: "there is no time",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000`:                                         "there is no time",
		`192.0.2.1 - - [yesterday] "GET / HTTP/1.1" 200 5`:                                  "the time is of no known form",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] GET / 200`:                              "there is no request",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "GET / HTTP/1.1 200 5`:                  "there is no request",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "GET /\" HTTP/1.1 200 5`:                "there is no request",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "-" 408 -`:                              "the request has no method and path",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "" 400 0`:                               "the request has no method and path",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "\x16\x03\x01 a" 400 0`:                 "the request has no method and path",
		`192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "GET / HTTP/1.1" OK 5`:                  "the status is no number from 100 to 999",
		`host.example - - [10/Oct/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5`:              "the client is no address",
		`{"msec":1791633600,"remote_addr":"unix:","request":"GET / HTTP/1.1"}`:              "the client is no address",
		`{"msec":1791633600,"remote_addr":"192.0.2.1"}`:                                     "there is no request",
		`{"msec":1791633600,"remote_addr":"192.0.2.1","request":"GET / HTTP/1.1"`:           "the line is no JSON object",
		`{"msec":1791633600,"remote_addr":"192.0.2.1","request":"GET / HTTP/1.1"} x`:        "the line is no JSON object",
		`{"request":{"method":"GET","uri":"/","client_ip":"192.0.2.1"}}`:                    "there is no time",
		`{"msec":1,"request":{"method":["GET"],"uri":"/","client_ip":"192.0.2.1"}}`:         "the request has no method and path",
		`{"msec":1,"remote_addr":"192.0.2.1","request":"GET / HTTP/1.1","status":"teapot"}`: "the status is no number from 100 to 999",
		strings.Repeat("x", 300<<10):                                                        "the line is longer than 256 KiB",
		"   ":                                                                               "the line is empty",
	} {
		got, stats := read(t, plainConfig, good, line, good)
		assert.Len(t, got, 2, line[:min(len(line), 80)])
		assert.Equal(t, 3, stats.Lines)
		require.Equal(t, 1, stats.Malformed)
		e := stats.MalformedExamples[0]
		assert.Equal(t, reason, e.Reason, line[:min(len(line), 80)])
		assert.Equal(t, 2, e.Line)
		assert.Less(t, len(e.Text), 200)
		assert.True(t, strings.HasPrefix(e.Text, line[:min(len(line), 10)]), e.Text)
	}
}

// The probes of TLS scanners have escapes in a request that is refused, and in one that cannot be read.
func TestFormats_anExampleShowsTheLineAsItWas(t *testing.T) {
	t.Parallel()
	malformed := `192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "\x16\x03\x01\x02\x00\x01\x00\x01\xFC" 400 150 "-" "-"`
	refused := `192.0.2.1 - - [10/Oct/2026:12:00:00 +0000] "GET /a\x22/../b HTTP/1.1" 400 5 "\x22a\x22" "b\"c"`
	_, stats := read(t, plainConfig, malformed, refused)
	require.Len(t, stats.MalformedExamples, 1)
	assert.Equal(t, malformed, stats.MalformedExamples[0].Text)
	require.Len(t, stats.RefusedExamples, 1)
	assert.Equal(t, refused, stats.RefusedExamples[0].Text)
}

func TestFormats_aPathWithoutANormalFormIsRefused(t *testing.T) {
	t.Parallel()
	got, stats := read(t, plainConfig, at(0, "/a"), at(0, "/../b"))
	assert.Len(t, got, 1)
	assert.Equal(t, 1, stats.Refused)
	assert.Equal(t, 0, stats.Malformed)
	assert.Equal(t, "goes above the root", stats.RefusedExamples[0].Reason)
}

func TestFormats_aHostForLinesWithoutOne(t *testing.T) {
	t.Parallel()
	cfg := plainConfig
	_, stats := read(t, cfg, at(0, "/a"))
	assert.Equal(t, 1, stats.NoHost)
	cfg.Host = "api.example.com"
	got, stats := read(t, cfg, at(0, "/a"), "other.example "+at(0, "/a"))
	assert.Equal(t, 0, stats.NoHost)
	assert.Equal(t, "api.example.com", got[0].Host)
	assert.Equal(t, "other.example", got[1].Host)
}
