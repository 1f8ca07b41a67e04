package admin_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// serve serves until the test ends.
func serve(t testing.TB, s *admin.Server, ln net.Listener) {
	t.Helper()
	webtest.Serve(t, s, ln)
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

func toAnswer(r webtest.Response) answer { return answer{r.Status, r.Header, r.Body} }

// problem is webtest.Response.Problem.
func (a answer) problem(t testing.TB) map[string]any {
	t.Helper()
	return webtest.Response{Status: a.status, Header: a.header, Body: a.body}.Problem(t)
}

// call is webtest.Call.
func call(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	return toAnswer(webtest.Call(t, method, url, body, headers...))
}

// exchange is webtest.Exchange for one request.
func exchange(t testing.TB, addr, raw string) answer {
	t.Helper()
	return toAnswer(webtest.Exchange(t, addr, raw, 1)[0])
}
