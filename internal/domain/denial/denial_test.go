package denial_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
)

func TestAppendBody_replacesPlaceholders(t *testing.T) {
	values := denial.Values{RetryAfter: 12, Limit: 10, RequestID: `<a "b"> & \`}
	for name, c := range map[string]struct{ contentType, body, want string }{
		"plain":           {"text/plain", "{retry_after}/{limit}/{request_id}", `12/10/<a "b"> & \`},
		"HTML":            {"text/html", "<p>{request_id}</p>", `<p>&lt;a &#34;b&#34;&gt; &amp; \</p>`},
		"XML":             {"image/svg+xml", "<text>{request_id}</text>", `<text>&lt;a &#34;b&#34;&gt; &amp; \</text>`},
		"JSON":            {"application/json", `{"wait":{retry_after},"id":"{request_id}"}`, `{"wait":12,"id":"\u003ca \"b\"\u003e \u0026 \\"}`},
		"a JSON type":     {"application/vnd.api+json", `{"errors":[{"id":"{request_id}"}]}`, `{"errors":[{"id":"\u003ca \"b\"\u003e \u0026 \\"}]}`},
		"no placeholder":  {"text/plain", "slow down", "slow down"},
		"twice":           {"text/plain", "{limit}{limit}", "1010"},
		"braces of CSS":   {"text/html", "<style>p { color: red } .a{color:red}</style>{limit}", "<style>p { color: red } .a{color:red}</style>10"},
		"braces, nested":  {"text/plain", "{{limit}} {} { limit } {limit", "{10} {} { limit } {limit"},
		"no word":         {"text/plain", "{3} {_a} {a b} {a:b}", "{3} {_a} {a b} {a:b}"},
		"a brace at last": {"text/plain", "{limit}{", "10{"},
	} {
		a, err := denial.New(0, c.contentType, c.body)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, string(a.AppendBody(nil, values)), name)
		assert.Equal(t, "> "+c.want, string(a.AppendBody([]byte("> "), values)), name)
	}
}

func TestNew_refusesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		status                  int
		contentType, body, want string
	}{
		"nothing":               {0, "", "", `denied: must have a status or a body`},
		"a status below":        {399, "", "", `status: 399: must be from 400 to 599`},
		"a status above":        {600, "", "", `status: 600: must be from 400 to 599`},
		"a body without a type": {0, "", "x", `content_type: is missing: a body has one, such as text/html`},
		"a type without a body": {0, "text/html", "", `content_type: "text/html": has no effect without body or body_file`},
		"no media type":         {0, "html", "x", `content_type: "html": must be a media type, such as text/html or application/json`},
		"half a media type":     {0, "text/", "x", `content_type: "text/": must be a media type, such as text/html or application/json`},
		"a second header":       {0, "text/html\r\nX: y", "x", `content_type: "text/html\r\nX: y": must be a media type, such as text/html or application/json`},
		"another charset":       {0, "text/html; charset=latin1", "x", `content_type: "text/html; charset=latin1": must have the charset utf-8, or none: the body is UTF-8`},
		"an unknown name": {
			0, "text/html", "one\n{limit} {retry_afer}", `body: "{retry_afer}": is no placeholder, on line 2 of the body: they are {retry_after}, ` +
				`{limit} and {request_id}; other braces are text if they have a space inside, as in { retry_afer }`,
		},
		"another spelling": {
			0, "text/html", "{Retry-After}", `body: "{Retry-After}": is no placeholder, on line 1 of the body: they are {retry_after}, ` +
				`{limit} and {request_id}; other braces are text if they have a space inside, as in { Retry-After }`,
		},
		"no JSON":      {0, "application/json", `{"id":{request_id}}`, `body: must be JSON, since content_type says so: {request_id} stands inside quotes`},
		"no UTF-8":     {0, "text/plain", "\xff", `body: must be text in UTF-8`},
		"a large body": {0, "text/plain", strings.Repeat("x", 65537), `body: 65537 bytes: must have at most 65536 bytes`},
	} {
		a, err := denial.New(c.status, c.contentType, c.body)
		assert.Nil(t, a, name)
		require.ErrorIs(t, err, domain.ErrInvalidPolicy, name)
		assert.EqualError(t, err, c.want, name)
	}
}

func TestNew_contentTypeAndStatus(t *testing.T) {
	for given, want := range map[string]string{
		"text/html": "text/html; charset=utf-8", "text/html; charset=UTF-8": "text/html; charset=UTF-8",
		"application/json": "application/json", "application/problem+json": "application/problem+json",
	} {
		a, err := denial.New(503, given, `{"a":1}`)
		require.NoError(t, err, given)
		assert.Equal(t, want, a.ContentType())
		assert.Equal(t, 503, a.Status())
		assert.True(t, a.HasBody())
	}
	a, err := denial.New(503, "", "")
	require.NoError(t, err)
	assert.Equal(t, 503, a.Status())
	assert.False(t, a.HasBody())
	assert.Empty(t, a.ContentType())
}
