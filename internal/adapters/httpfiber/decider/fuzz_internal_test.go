package decider

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// FuzzKeyHeader has net/http read the same bytes: a key that both read is the same, and one that is there twice is refused.
func FuzzKeyHeader(f *testing.F) {
	for _, seed := range []string{
		"", "X-Client-ID: alice", "x-client-id:alice \t", "X-Client-ID: a\r\nX-Client-ID: b", "X_Client_ID: bob", "X-Client-ID:",
		"X-Client-ID: a\r\nx-CLIENT-id: a", "X-Client-ID: \xff\x00", "X-Client-ID : a", "A: b\r\n X-Client-ID: c", "X-Client-ID: a\n\nX-Client-ID: b",
	} {
		f.Add(seed)
	}
	source := clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}
	f.Fuzz(func(t *testing.T, lines string) {
		raw := "GET /api/resource HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n\r\n"
		var ours fasthttp.Request
		theirs, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || ours.Read(bufio.NewReader(strings.NewReader(raw))) != nil {
			return // one of the two refuses it
		}
		s := new(RequestScratch)
		s.header = &ours.Header
		s.values.Reset(s, "")
		got, err := s.values.Lookup(source)
		values := theirs.Header["X-Client-Id"]
		switch len(values) {
		case 0:
			require.NoError(t, err)
			assert.Empty(t, got)
		case 1:
			require.NoError(t, err)
			assert.Equal(t, values[0], got)
		default:
			require.Error(t, err, "%q", values)
		}
	})
}
