package usage_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/web/usage"
)

func TestAskForUsage(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"no options": {
			`{"model":"m","stream":true,"messages":[]}`,
			`{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}`,
		},
		"every other byte stays": {
			"\n { \"seed\" : 12345678901234567890123, \"x\":\"<\\u00e9>\", \"stream\" : true }\n",
			"\n {\"stream_options\":{\"include_usage\":true}, \"seed\" : 12345678901234567890123, \"x\":\"<\\u00e9>\", \"stream\" : true }\n",
		},
		"null options":        {`{"stream":true,"stream_options":null}`, `{"stream":true,"stream_options":{"include_usage":true}}`},
		"empty options":       {`{"stream":true,"stream_options":{ }}`, `{"stream":true,"stream_options":{"include_usage":true }}`},
		"other options":       {`{"stream":true,"stream_options":{"a":1}}`, `{"stream":true,"stream_options":{"include_usage":true,"a":1}}`},
		"not wanted":          {`{"stream":true,"stream_options": {"include_usage": false, "a":1}}`, `{"stream":true,"stream_options": {"include_usage": true, "a":1}}`},
		"wanted is null":      {`{"stream":true,"stream_options":{"include_usage":null}}`, `{"stream":true,"stream_options":{"include_usage":true}}`},
		"the last name":       {`{"stream":false,"stream":true,"stream_options":1,"stream_options":{}}`, `{"stream":false,"stream":true,"stream_options":1,"stream_options":{"include_usage":true}}`},
		"an escaped name":     {`{"str\u0065am":true,"stream_option\u0073":{}}`, `{"str\u0065am":true,"stream_option\u0073":{"include_usage":true}}`},
		"wanted":              {`{"stream":true,"stream_options":{"include_usage":true}}`, ``},
		"invalid options":     {`{"stream":true,"stream_options":[]}`, ``},
		"no stream":           {`{"model":"m"}`, ``},
		"stream is false":     {`{"stream":false}`, ``},
		"stream is null":      {`{"stream":null}`, ``},
		"stream is a text":    {`{"stream":"true"}`, ``},
		"stream is elsewhere": {`{"x":{"stream":true}}`, ``},
		"the last is false":   {`{"stream":true,"stream":false}`, ``},
		"the responses API":   {`{"model":"m","input":"Hi","stream":true}`, ``},
		"an array":            {`[{"stream":true}]`, ``},
		"a literal":           {`true`, ``},
		"two texts":           {`{"stream":true}{}`, ``},
		"broken":              {`{"stream":true`, ``},
		"empty":               {``, ``},
		"another format":      {"--x\r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\ntrue\r\n--x--", ``},
	} {
		given := []byte(tt.body)
		got, asked := usage.AskForUsage(given)
		assert.Equal(t, tt.body, string(given), name)
		assert.Equal(t, tt.want != "", asked, name)
		if tt.want == "" {
			tt.want = tt.body
		}
		assert.Equal(t, tt.want, string(got), name)
		again, asked := usage.AskForUsage(got)
		assert.False(t, asked, name)
		assert.Equal(t, tt.want, string(again), name)
	}
}

func FuzzAskForUsage(f *testing.F) {
	for _, seed := range []string{`{"stream":true}`, `{"stream":true,"stream_options":{"a":1,"include_usage":null}}`, ` { "x":[{}], "stream" : true } `, `{"stream":true,"stream":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, asked := usage.AskForUsage(body)
		if !asked {
			require.Equal(t, body, got)
			return
		}
		var before, after map[string]any
		require.NoError(t, json.Unmarshal(body, &before))
		require.NoError(t, json.Unmarshal(got, &after))
		require.Equal(t, true, before["stream"])
		options, ok := before["stream_options"].(map[string]any)
		if !ok {
			options = map[string]any{}
		}
		options["include_usage"] = true
		before["stream_options"] = options
		require.Equal(t, before, after)
	})
}
