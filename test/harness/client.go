package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Exchange is a request to the service and the response to it.
type Exchange struct {
	Test, Method, URL string
	Header            http.Header
	Body              []byte
	Response          Response
}

// ExchangesVar names the environment variable of a folder, in which package test records its exchanges.
const ExchangesVar = "VELOCITY_EXCHANGES"

var (
	observedPaths []string
	observe       func(t *testing.T, e Exchange)
)

// Observe has f called, on any goroutine, with each exchange on one of the paths. Call it before the tests run.
func Observe(paths []string, f func(t *testing.T, e Exchange)) { observedPaths, observe = paths, f }

// NewClient returns a client that keeps connections to one host for many concurrent requests, until the test ends.
func NewClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: observed{t, transport}, Timeout: Timeout}
}

type observed struct {
	t    *testing.T
	next *http.Transport
}

func (o observed) CloseIdleConnections() { o.next.CloseIdleConnections() }

func (o observed) RoundTrip(req *http.Request) (*http.Response, error) {
	if !slices.Contains(observedPaths, req.URL.Path) {
		return o.next.RoundTrip(req)
	}
	e := Exchange{Test: o.t.Name(), Method: req.Method, URL: req.URL.String(), Header: req.Header.Clone()}
	var err error
	if e.Body, err = bufferBody(&req.Body); err != nil {
		return nil, err
	}
	resp, err := o.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := bufferBody(&resp.Body)
	if err != nil {
		return nil, err
	}
	e.Response = Response{resp.StatusCode, resp.Header.Clone(), string(body)}
	observe(o.t, e)
	return resp, nil
}

// bufferBody reads a body and replaces it by a copy.
func bufferBody(body *io.ReadCloser) ([]byte, error) {
	if *body == nil || *body == http.NoBody {
		return nil, nil
	}
	text, err := io.ReadAll(*body)
	_ = (*body).Close()
	*body = io.NopCloser(bytes.NewReader(text))
	return text, err
}

// Response is a response whose body has been read.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// JSON decodes the body.
func (r Response) JSON(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.Body), &out), "body %q", r.Body)
	return out
}

// Send sends a request by a client, and reads the response. Header lines are "Name: value".
func Send(c *http.Client, req *http.Request, headers ...string) (Response, error) {
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return Response{resp.StatusCode, resp.Header, string(text)}, err
}

// Do sends a request, with a body of JSON unless it is empty. Header lines are "Name: value".
func (p *Process) Do(method, url, body string, headers ...string) (Response, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(p.T.Context(), method, url, reader)
	if err != nil {
		return Response{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return Send(p.Client, req, headers...)
}

// MustDo is Do for the goroutine of the test, which an error ends.
func (p *Process) MustDo(method, url, body string, headers ...string) Response {
	p.T.Helper()
	resp, err := p.Do(method, url, body, headers...)
	require.NoError(p.T, err)
	return resp
}

// Resource requests the protected resource.
func (p *Process) Resource(headers ...string) Response {
	p.T.Helper()
	return p.MustDo(http.MethodGet, p.URL+"/api/resource", "", headers...)
}

// Metric returns the sum of the samples of a metric whose labels contain each of these texts.
func (p *Process) Metric(name string, labels ...string) float64 {
	p.T.Helper()
	resp := p.MustDo(http.MethodGet, p.Admin+"/metrics", "")
	require.Equal(p.T, http.StatusOK, resp.Status, resp.Body)
	total := 0.0
	for lines := bufio.NewScanner(strings.NewReader(resp.Body)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		lacks := func(label string) bool { return !strings.Contains(rest, label) }
		if !ok || rest[0] != '{' && rest[0] != ' ' || slices.ContainsFunc(labels, lacks) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(p.T, err, lines.Text())
		total += v
	}
	return total
}
