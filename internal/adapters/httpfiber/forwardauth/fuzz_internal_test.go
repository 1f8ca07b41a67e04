package forwardauth

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

// FuzzForwardOriginal: what a proxy is believed to say is a request in normal form, whatever the headers hold.
func FuzzForwardOriginal(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/a?b", "", ""}, {"", "", "https://h:1/a", "h"}, {"POST", "//a/../b", "/b", "H"}, {"", "/%2f", "://", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, method, uri, url, host string) {
		var h fasthttp.RequestHeader
		h.Set("X-Forwarded-Method", method)
		h.Set("X-Original-URI", uri)
		h.Set("X-Original-URL", url)
		h.Set("X-Forwarded-Host", host)
		o := original{header: &h, normalize: cleanpath.Normalize}
		o.read()
		if o.err != nil || o.path == "" {
			return
		}
		again, err := cleanpath.Normalize(o.path)
		require.NoError(t, err)
		assert.Equal(t, again, o.path)
		for _, part := range []string{o.method, o.host} {
			assert.NotContains(t, part, " ")
			assert.NotContains(t, part, ",")
		}
	})
}
