package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

const (
	host  = "Host: 127.0.0.1\r\n"
	inner = "GET /api/resource/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" // a request that is hidden in a body
)

// get is a request with these header lines, each with its line end.
func get(lines string) string { return "GET /api/resource HTTP/1.1\r\n" + host + lines + "\r\n" }

// post is a request with these header lines, and a body of these bytes.
func post(lines, body string) string {
	return "POST /api/resource HTTP/1.1\r\n" + host + lines + "\r\n" + body
}

// chunks is a request whose body is in chunks, of these bytes.
func chunks(body string) string { return post("Transfer-Encoding: chunked\r\n", body) }

// line is a request with this line.
func line(l string) string { return l + "\r\n" + host + "\r\n" }

// What an ambiguous request may mean, if it is not refused: method, target, host, body, trailer.
const (
	plain  = `GET /api/resource 127.0.0.1 "" map[]`
	empty  = `POST /api/resource 127.0.0.1 "" map[]`
	hello  = `POST /api/resource 127.0.0.1 "hello" map[]`
	refuse = ""
)

// smuggling are the bytes of requests, by what is odd about them, and their only meaning. Those without one must be refused.
// The rest may be refused, too.
var smuggling = map[string]struct{ raw, meaning string }{
	"length and encoding":                 {post("Content-Length: 80\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+inner), empty},
	"encoding and length":                 {post("Transfer-Encoding: chunked\r\nContent-Length: 80\r\n", "0\r\n\r\n"+inner), empty},
	"length of a part, and encoding":      {post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)), fmt.Sprintf("POST /api/resource 127.0.0.1 %q map[]", inner)},
	"two lengths":                         {post("Content-Length: 0\r\nContent-Length: 80\r\n", inner), refuse},
	"two lengths, the other way":          {post("Content-Length: 80\r\nContent-Length: 0\r\n", inner), refuse},
	"two equal lengths":                   {post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), hello},
	"a list of lengths":                   {post("Content-Length: 5, 0\r\n", "hello"), refuse},
	"a list of equal lengths":             {post("Content-Length: 5, 5\r\n", "hello"), hello},
	"a signed length":                     {post("Content-Length: +5\r\n", "hello"), refuse},
	"a negative length":                   {post("Content-Length: -5\r\n", "hello"), refuse},
	"a hexadecimal length":                {post("Content-Length: 0x5\r\n", "hello"), refuse},
	"a length with a fraction":            {post("Content-Length: 5.0\r\n", "hello"), refuse},
	"a length with an exponent":           {post("Content-Length: 5e0\r\n", "hello"), refuse},
	"an empty length":                     {post("Content-Length:\r\n", "hello"), refuse},
	"a length beyond all numbers":         {post("Content-Length: 18446744073709551621\r\n", "hello"), refuse},
	"a length with a letter":              {post("Content-Length: 5a\r\n", "hello"), refuse},
	"a length with a space inside":        {post("Content-Length: 5 5\r\n", "hello"), refuse},
	"a space before the colon":            {post("Content-Length : 5\r\n", "hello"), refuse},
	"a space before the encoding's colon": {post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), refuse},
	"an unknown encoding":                 {post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+inner), refuse},
	"identity":                            {post("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"), refuse},
	"chunked, then identity":              {post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+inner), refuse},
	"identity, then chunked":              {post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"+inner), empty},
	"gzip, then chunked":                  {post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+inner), refuse},
	"chunked twice":                       {post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"+inner), refuse},
	"two encodings":                       {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+inner), refuse},
	"two encodings, the other way":        {post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+inner), refuse},
	"an encoding after a tab":             {post("Transfer-Encoding:\tchunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), hello},
	"an encoding after a vertical tab":    {post("Transfer-Encoding: \x0bchunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), refuse},
	"an encoding in quotes":               {post("Transfer-Encoding: \"chunked\"\r\n", "5\r\nhello\r\n0\r\n\r\n"), refuse},
	"an encoding with a parameter":        {post("Transfer-Encoding: chunked;a=b\r\n", "5\r\nhello\r\n0\r\n\r\n"), refuse},
	"an encoding in capitals":             {post("TRANSFER-ENCODING: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"), hello},
	"an empty encoding":                   {post("Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"), refuse},
	"an encoding on a folded line":        {post("Transfer-Encoding:\r\n chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), hello},
	"an encoding in HTTP/1.0":             {"POST /api/resource HTTP/1.0\r\n" + host + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, empty},
	"an encoding in a GET of HTTP/1.0":    {"GET /api/resource HTTP/1.0\r\n" + host + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, plain},
	"an encoding with underscore":         {post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), hello},
	"a length with underscore":            {post("Content_Length: 80\r\nContent-Length: 5\r\n", "hello"), hello},
	"a body of GET":                       {"GET /api/resource HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhello", strings.Replace(hello, "POST", "GET", 1)},
	"a body of GET that is a request":     {"GET /api/resource HTTP/1.1\r\n" + host + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(inner), inner), fmt.Sprintf("GET /api/resource 127.0.0.1 %q map[]", inner)},
	"Connection names the length":         {post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"), hello},
	"Connection names the encoding":       {post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), hello},
	"Connection names the host":           {get("Connection: Host\r\n"), plain},

	"no host":                      {"GET /api/resource HTTP/1.1\r\n\r\n", refuse},
	"two hosts":                    {get("Host: evil\r\n"), refuse},
	"two equal hosts":              {get(host), refuse},
	"a list of hosts":              {"GET /api/resource HTTP/1.1\r\nHost: a, b\r\n\r\n", refuse},
	"a host with a path":           {"GET /api/resource HTTP/1.1\r\nHost: a/b\r\n\r\n", refuse},
	"a host with a quote":          {"GET /api/resource HTTP/1.1\r\nHost: a\"b\r\n\r\n", refuse},
	"a host with a space":          {"GET /api/resource HTTP/1.1\r\nHost: a b\r\n\r\n", refuse},
	"a host with a user":           {"GET /api/resource HTTP/1.1\r\nHost: a@b\r\n\r\n", refuse},
	"another host in the target":   {"GET http://a/api/resource HTTP/1.1\r\nHost: b\r\n\r\n", `GET /api/resource a "" map[]`},
	"a user in the target":         {"GET http://u@127.0.0.1/api/resource HTTP/1.1\r\n" + host + "\r\n", plain},
	"a space before host's colon":  {"GET /api/resource HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", refuse},
	"a folded line":                {get("X-A: b\r\n c: d\r\n"), plain},
	"a folded line with a tab":     {get("X-A: b\r\n\tHost: evil\r\n"), plain},
	"a folded first line":          {"GET /api/resource HTTP/1.1\r\n Host: evil\r\n" + host + "\r\n", refuse},
	"a folded host":                {"GET /api/resource HTTP/1.1\r\nHost:\r\n 127.0.0.1\r\n\r\n", plain},
	"a line end of LF":             {"GET /api/resource HTTP/1.1\r\n" + host + "X-A: b\nX-B: c\r\n\r\n", plain},
	"all line ends LF":             {"GET /api/resource HTTP/1.1\nHost: 127.0.0.1\n\n", plain},
	"the last line end LF":         {"GET /api/resource HTTP/1.1\r\n" + host + "\n", plain},
	"a CR in a value":              {get("X-A: b\rX-B: c\r\n"), refuse},
	"a CR in a name":               {get("X-A\r: b\r\n"), refuse},
	"CR CR LF":                     {get("X-A: b\r\r\n"), refuse},
	"a zero in a value":            {get("X-A: b\x00c\r\n"), refuse},
	"a zero in a name":             {get("X\x00A: b\r\n"), refuse},
	"a control in a value":         {get("X-A: b\x01c\r\n"), refuse},
	"DEL in a value":               {get("X-A: b\x7fc\r\n"), refuse},
	"a space in a name":            {get("X A: b\r\n"), refuse},
	"a bracket in a name":          {get("X(A: b\r\n"), refuse},
	"no name":                      {get(": b\r\n"), refuse},
	"no colon":                     {get("X-A\r\n"), refuse},
	"a name that is not ASCII":     {get("X-\xe4: b\r\n"), refuse},
	"a blank line, then a request": {"\r\n" + get(""), plain},

	"a chunk of no number":            {chunks("zz\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk of a signed number":      {chunks("+5\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk of a negative number":    {chunks("-5\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk of 0x5":                  {chunks("0x5\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk of a number too large":   {chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk without a number":        {chunks("\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk with an extension":       {chunks("5;a=b\r\nhello\r\n0\r\n\r\n"), hello},
	"a chunk with LF in an extension": {chunks("5;a=\nb\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk with CR in an extension": {chunks("5;a=\rb\r\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk line that ends in LF":    {chunks("5\nhello\r\n0\r\n\r\n"), refuse},
	"a chunk that ends in LF":         {chunks("5\r\nhello\n0\r\n\r\n"), refuse},
	"a chunk that is too long":        {chunks("5\r\nhello!\r\n0\r\n\r\n"), refuse},
	"a chunk that is too short":       {chunks("6\r\nhello\r\n0\r\n\r\n"), refuse},
	"a last chunk that ends in LF":    {chunks("5\r\nhello\r\n0\n\r\n"), refuse},
	"a last chunk of 000":             {chunks("5\r\nhello\r\n000\r\n\r\n"), hello},
	"a space after the number":        {chunks("5 \r\nhello\r\n0\r\n\r\n"), hello},
	"a space before the number":       {chunks(" 5\r\nhello\r\n0\r\n\r\n"), refuse},

	"a trailer":                         {chunks("5\r\nhello\r\n0\r\nX-A: b\r\n\r\n"), `POST /api/resource 127.0.0.1 "hello" map[X-A:[b]]`},
	"a trailer with a space":            {chunks("5\r\nhello\r\n0\r\nBad Header: b\r\n\r\n"), hello},
	"a trailer with a space at last":    {chunks("5\r\nhello\r\n0\r\nX : y\r\n\r\n"), hello},
	"a trailer with no colon":           {chunks("5\r\nhello\r\n0\r\nX\r\n\r\n"), refuse},
	"a trailer with no name":            {chunks("5\r\nhello\r\n0\r\n: b\r\n\r\n"), refuse},
	"a trailer with a bracket":          {chunks("5\r\nhello\r\n0\r\nX(A: b\r\n\r\n"), refuse},
	"a trailer with a zero":             {chunks("5\r\nhello\r\n0\r\nX-A: b\x00c\r\n\r\n"), refuse},
	"a trailer with a CR":               {chunks("5\r\nhello\r\n0\r\nX-A: b\rc\r\n\r\n"), refuse},
	"a trailer on a folded line":        {chunks("5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n"), `POST /api/resource 127.0.0.1 "hello" map[X-A:[b c]]`},
	"a trailer with a length":           {chunks("5\r\nhello\r\n0\r\nContent-Length: 80\r\n\r\n"), hello},
	"a trailer with an encoding":        {chunks("5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), hello},
	"a trailer with a host":             {chunks("5\r\nhello\r\n0\r\nHost: evil\r\n\r\n"), hello},
	"a trailer with an underscore":      {chunks("5\r\nhello\r\n0\r\nX_A: b\r\n\r\n"), hello},
	"a trailer that forges the client":  {chunks("5\r\nhello\r\n0\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=a\r\nX-Real-IP: a\r\nX-Original-URL: /x\r\n\r\n"), hello},
	"a trailer that names a connection": {chunks("5\r\nhello\r\n0\r\nConnection: close\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nTE: x\r\n\r\n"), hello},

	"HTTP/3.0":                   {line("GET /api/resource HTTP/3.0"), refuse},
	"HTTP/2.0":                   {line("GET /api/resource HTTP/2.0"), refuse},
	"HTTP/0.9":                   {line("GET /api/resource HTTP/0.9"), refuse},
	"HTTP/1.2":                   {line("GET /api/resource HTTP/1.2"), plain},
	"HTTP/1.10":                  {line("GET /api/resource HTTP/1.10"), refuse},
	"HTTP/1":                     {line("GET /api/resource HTTP/1"), refuse},
	"HTTP/01.1":                  {line("GET /api/resource HTTP/01.1"), refuse},
	"http/1.1":                   {line("GET /api/resource http/1.1"), refuse},
	"XTTP/1.1":                   {line("GET /api/resource XTTP/1.1"), refuse},
	"no version":                 {line("GET /api/resource"), refuse},
	"more after the version":     {line("GET /api/resource HTTP/1.1 HTTP/1.1"), refuse},
	"a space after the version":  {line("GET /api/resource HTTP/1.1 "), refuse},
	"two spaces before the path": {line("GET  /api/resource HTTP/1.1"), refuse},
	"two spaces after the path":  {line("GET /api/resource  HTTP/1.1"), refuse},
	"tabs":                       {line("GET\t/api/resource\tHTTP/1.1"), refuse},
	"a space before the method":  {line(" GET /api/resource HTTP/1.1"), refuse},
	"a method in mixed case":     {"Post /api/resource HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhello", refuse},
	"a method in small letters":  {line("get /api/resource HTTP/1.1"), refuse},
	"a method of mixed letters":  {line("gEt /api/resource HTTP/1.1"), refuse},
	"a method with a zero":       {line("G\x00ET /api/resource HTTP/1.1"), refuse},
	"a method with a bracket":    {line("G(T /api/resource HTTP/1.1"), refuse},
	"no method":                  {line(" /api/resource HTTP/1.1"), refuse},
	"TRACE":                      {line("TRACE /api/resource HTTP/1.1"), refuse},
	"CONNECT":                    {line("CONNECT a:80 HTTP/1.1"), refuse},
	"CONNECT with a path":        {line("CONNECT /api/resource HTTP/1.1"), refuse},
	"OPTIONS of the server":      {line("OPTIONS * HTTP/1.1"), refuse},
	"HTTP/2's preface":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"}, // over TCP, HTTP/2 may begin like this
	"a TLS hello":                {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", refuse},

	"an encoded slash":            {line("GET /api%2fresource HTTP/1.1"), refuse},
	"an encoded backslash":        {line("GET /api%5cresource HTTP/1.1"), refuse},
	"an encoded zero":             {line("GET /api/resource%00 HTTP/1.1"), refuse},
	"above the root":              {line("GET /../api/resource HTTP/1.1"), refuse},
	"above the root, encoded":     {line("GET /%2e%2e/api/resource HTTP/1.1"), refuse},
	"encoded twice":               {line("GET /%2561pi/resource HTTP/1.1"), refuse},
	"dots, encoded twice":         {line("GET /x/%252e%252e/api/resource HTTP/1.1"), refuse},
	"dots":                        {line("GET /x/../api/./resource HTTP/1.1"), plain},
	"dots, encoded":               {line("GET /x/%2e%2E/api/%2e/resource HTTP/1.1"), plain},
	"two slashes":                 {line("GET //api//resource HTTP/1.1"), plain},
	"an escape of no number":      {line("GET /api/resource%zz HTTP/1.1"), refuse},
	"half an escape":              {line("GET /api/resource%2 HTTP/1.1"), refuse},
	"an unreserved escape":        {line("GET /%61pi/resource HTTP/1.1"), plain},
	"backslashes":                 {line("GET \\api\\resource HTTP/1.1"), refuse},
	"a relative path":             {line("GET api/resource HTTP/1.1"), refuse},
	"a fragment":                  {line("GET /api/resource#x HTTP/1.1"), plain},
	"a control in the path":       {line("GET /api/resource\x01 HTTP/1.1"), refuse},
	"a space in the query":        {line("GET /api/resource?a b HTTP/1.1"), refuse},
	"a tab in the query":          {line("GET /api/resource?a\tb HTTP/1.1"), refuse},
	"a query that is not decoded": {line("GET /api/resource?a=%zz;b=%2f&&../ HTTP/1.1"), `GET /api/resource?a=%zz;b=%2f&&../ 127.0.0.1 "" map[]`},
	"an empty query":              {line("GET /api/resource? HTTP/1.1"), `GET /api/resource? 127.0.0.1 "" map[]`},
	"an absolute target":          {line("GET http://127.0.0.1/api/resource HTTP/1.1"), plain},
	"an absolute target of FTP":   {line("GET ftp://127.0.0.1/api/resource HTTP/1.1"), plain},
}

// harmless are requests that are refused before they are forwarded, and answered where they are not.
var harmless = []string{"a host with a quote", "a host with a user", "a space in a name"}

// seen is what an upstream server was asked, as a strict server understands it.
type seen struct {
	mu       sync.Mutex
	meanings []string
}

func (s *seen) add(meaning string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meanings = append(s.meanings, meaning)
}

func (s *seen) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.meanings
	s.meanings = nil
	return got
}

// serve reads one request of a connection, whose header must be unambiguous for any server, and answers. A request that
// breaks off is none.
func (s *seen) serve(conn net.Conn, in *bufio.Reader) {
	var head bytes.Buffer
	var framing, hosts int
	for {
		l, err := in.ReadString('\n')
		if err != nil {
			return
		}
		head.WriteString(l)
		text, ended := strings.CutSuffix(l, "\r\n")
		if name, _, _ := strings.Cut(strings.ToLower(text), ":"); name == "content-length" || name == "transfer-encoding" {
			framing++
		} else if name == "host" {
			hosts++
		}
		if !ended || strings.ContainsAny(text, "\r\x00") || strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t") {
			s.add(fmt.Sprintf("an ambiguous line %q", l))
		}
		if text == "" {
			break
		}
	}
	if framing > 1 || hosts != 1 {
		s.add(fmt.Sprintf("an ambiguous header %q", head.String()))
	}
	all := bufio.NewReader(io.MultiReader(&head, in))
	r, err := http.ReadRequest(all)
	if err != nil {
		s.add(err.Error())
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Trailer == nil {
		r.Trailer = http.Header{}
	}
	s.add(fmt.Sprintf("%s %s %s %q %v", r.Method, r.RequestURI, r.Host, body, map[string][]string(r.Trailer)))
	if rest := all.Buffered() + in.Buffered(); rest > 0 {
		s.add(fmt.Sprintf("%d bytes after the request", rest))
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

// Each server refuses an ambiguous request, or takes it for exactly one.
func TestSmuggling_oneRequestAtMost(t *testing.T) {
	t.Parallel()
	var asked seen
	slow := harness.Settings{"VELOCITY_HTTP_READ_TIMEOUT": "500ms"} // what the server waits for in vain
	for name, settings := range map[string]harness.Settings{
		"the proxy":        rawUpstream(t, asked.serve),
		"without upstream": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, protocols[0], settings, slow)
			forwards := len(settings) > 0
			for _, name := range slices.Sorted(maps.Keys(smuggling)) {
				c := smuggling[name]
				decided := s.Metric("velocity_decisions_total")
				statuses := s.rawStatuses(t, c.raw)
				decided = s.Metric("velocity_decisions_total") - decided
				passed := 0
				for _, status := range statuses {
					if !refusal(status) {
						passed++
					}
				}
				var reached []string
				if forwards {
					reached = asked.take()
				}
				switch {
				case c.meaning == refuse && (forwards || !slices.Contains(harmless, name)):
					assert.Zero(t, passed, "%s: it passes: %v", name, statuses)
					assert.Empty(t, reached, name)
				case !forwards:
					assert.LessOrEqual(t, passed, 1, "%s: %v", name, statuses)
				case passed > 0 || len(reached) > 0:
					assert.Equal(t, []string{c.meaning}, reached, "%s: %v", name, statuses)
				}
				assert.LessOrEqual(t, decided, 1.0, "%s: requests that were decided", name)
			}
		})
	}
}

// refusal reports whether an answer says that it did not understand the request, or that it does not take its method.
func refusal(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestTimeout, http.StatusNotImplemented, http.StatusHTTPVersionNotSupported,
		http.StatusMethodNotAllowed, http.StatusNotFound, http.StatusBadGateway:
		return true
	}
	return false
}

// rawStatuses sends bytes on a new connection and returns the status of each answer. Answers that follow the first come at
// once, if at all.
func (s *server) rawStatuses(t *testing.T, raw string) []int {
	t.Helper()
	conn := s.dial(t)
	defer func() { _ = conn.Close() }()
	_, err := io.WriteString(conn, raw)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	var statuses []int
	for wait := harness.Timeout; ; wait = 30 * time.Millisecond {
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		statuses = append(statuses, res.StatusCode)
		_, _ = io.Copy(io.Discard, res.Body)
	}
}
