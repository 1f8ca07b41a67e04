package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// contract is the OpenAPI document of the data plane, ready to judge. Answers are held to it strictly: what a body or a
// header section holds beyond what the document says is a fault, so that the document cannot fall behind. A request may
// have any header, since any may be a client's key; of bodies the document says itself that they hold no more.
type contract struct {
	requests, answers validator.Validator
	paths             []string
	alone             sync.Mutex // the library renders schemas while it judges, in place
}

// openContract reads the document once for all tests.
var openContract = sync.OnceValues(func() (*contract, error) {
	text, err := os.ReadFile("../internal/adapters/httpfiber/openapi.yaml")
	if err != nil {
		return nil, err
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return nil, err
	}
	c := &contract{paths: slices.Collect(model.Model.Paths.PathItems.KeysFromOldest())}
	options := []config.Option{
		config.WithFormatAssertions(),
		config.WithoutSecurityValidation(), // who may ask what is tested by itself
	}
	var errs []error
	if c.requests, errs = validator.NewValidator(document, options...); len(errs) > 0 {
		return nil, errs[0]
	}
	c.answers, errs = validator.NewValidator(document, append(options, config.WithStrictMode())...)
	return c, errors.Join(errs...)
})

// underContract is a transport that holds every exchange on a path of the contract against it: each answer must be one
// that the document describes, and a request that was carried out must be one that it allows.
type underContract struct {
	t    *testing.T
	next http.RoundTripper
}

func (u underContract) RoundTrip(req *http.Request) (*http.Response, error) {
	c, err := openContract()
	if err != nil {
		return nil, fmt.Errorf("the contract: %w", err)
	}
	if !slices.Contains(c.paths, req.URL.Path) {
		return u.next.RoundTrip(req)
	}
	asked, err := keepBody(&req.Body)
	if err != nil {
		return nil, err
	}
	resp, err := u.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answered, err := keepBody(&resp.Body)
	if err != nil {
		return nil, err
	}
	for _, fault := range c.faults(req, asked, resp, answered) {
		assert.Fail(u.t, "not as openapi.yaml says", "%s %s %s -> %d %s: %v", req.Method, req.URL.Path, asked, resp.StatusCode,
			answered, fault)
	}
	return resp, nil
}

// faults judges copies, whose bodies it may read.
func (c *contract) faults(req *http.Request, asked []byte, resp *http.Response, answered []byte) (faults []error) {
	c.alone.Lock()
	defer c.alone.Unlock()
	r := req.Clone(req.Context())
	r.Body = io.NopCloser(bytes.NewReader(asked))
	if r.Method == http.MethodHead { // decided as GET, and answered without a body: there is nothing to judge
		return nil
	}
	refused := resp.StatusCode >= http.StatusBadRequest || bytes.Contains(answered, []byte(`"request_id"`)) // in part
	if !refused {
		_, errs := c.requests.ValidateHttpRequestSync(r)
		for _, err := range errs {
			faults = append(faults, err)
		}
		r.Body = io.NopCloser(bytes.NewReader(asked))
	}
	if resp.StatusCode == http.StatusMethodNotAllowed { // for methods that the document does not have
		return faults
	}
	a := *resp
	a.Body = io.NopCloser(bytes.NewReader(answered))
	_, errs := c.answers.ValidateHttpResponse(r, &a)
	for _, err := range errs {
		faults = append(faults, err)
	}
	return faults
}

// keepBody reads a body and puts it back.
func keepBody(body *io.ReadCloser) ([]byte, error) {
	if *body == nil || *body == http.NoBody {
		return nil, nil
	}
	text, err := io.ReadAll(*body)
	_ = (*body).Close()
	*body = io.NopCloser(bytes.NewReader(text))
	return text, err
}

func TestContract_isServedWhole(t *testing.T) {
	p := start(t, nil)
	want, err := os.ReadFile("../internal/adapters/httpfiber/openapi.yaml")
	require.NoError(t, err)
	got := p.mustAsk(http.MethodGet, p.url+"/openapi.yaml", "")
	assert.Equal(t, http.StatusOK, got.status)
	assert.Equal(t, "application/yaml", got.header.Get("Content-Type"))
	assert.Equal(t, string(want), got.body)
}

func TestContract_isValid(t *testing.T) {
	c, err := openContract()
	require.NoError(t, err)
	_, errs := c.requests.ValidateDocument()
	assert.Empty(t, errs)
}

// The contract itself is held by the client that asks; here are the answers that no other test asks for.
func TestContract_describesEveryRefusal(t *testing.T) {
	p := start(t, settings{"VELOCITY_API_TOKEN": "token", "VELOCITY_CAPACITY": "2", "VELOCITY_RATE": "1/h"})
	const token = "Authorization: Bearer token"
	large := `{"key":"` + strings.Repeat("a", 70_000) + `"}`
	for _, c := range []struct {
		path, body string
		headers    []string
		want       int
	}{
		{"/v1/check", `{"key":"a"`, []string{token}, http.StatusBadRequest},
		{"/v1/check", `{"key":"a","color":"red"}`, []string{token}, http.StatusBadRequest},
		{"/v1/check", `{"key":"a"}`, nil, http.StatusUnauthorized},
		{"/v1/check", `{"key":"a","policy":"other"}`, []string{token}, http.StatusNotFound},
		{"/v1/check", large, []string{token}, http.StatusRequestEntityTooLarge},
		{"/v1/check", `{"key":"a"}`, []string{token, "Content-Type: text/plain"}, http.StatusUnsupportedMediaType},
		{"/v1/check", `{"key":""}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/check", `{"key":"a","cost":3}`, []string{token}, http.StatusOK}, // never: the wait is -1
		{"/v1/check", `{"key":"a","attributes":{"header:x-tenant":"acme","ip":"10.0.0.1"}}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{"checks":[{"key":"a"},{"key":"b","cost":-1},{"key":"c","policy":"other"}]}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{"checks":[]}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{}`, []string{token}, http.StatusBadRequest},
		{"/v1/refund", `{"key":"a","cost":0}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/refund", `{"key":"a"}`, []string{token}, http.StatusOK},
		{"/v1/charge", `{"key":"a","cost":2147483648}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/charge", `{"key":"a","cost":2147483647}`, []string{token}, http.StatusUnprocessableEntity}, // beyond any debt
		{"/v1/charge", `{"key":"a"}`, nil, http.StatusUnauthorized},
	} {
		a := p.mustAsk(http.MethodPost, p.url+c.path, c.body, c.headers...)
		assert.Equal(t, c.want, a.status, "%s %.60s: %s", c.path, c.body, a.body)
	}
	assert.Equal(t, http.StatusOK, p.resource().status)
	assert.Equal(t, http.StatusOK, p.resource().status)
	assert.Equal(t, http.StatusTooManyRequests, p.resource().status)

	proxied := start(t, settings{"VELOCITY_TRUSTED_PROXIES": "loopback", "VELOCITY_CAPACITY": "1", "VELOCITY_RATE": "1/h"})
	for _, c := range []struct {
		method, query string
		want          int
	}{
		{http.MethodGet, "", http.StatusOK},
		{http.MethodPost, "", http.StatusTooManyRequests},
		{http.MethodDelete, "?denied=401", http.StatusUnauthorized},
		{http.MethodGet, "?denied=403", http.StatusForbidden},
		{http.MethodGet, "?denied=503", http.StatusServiceUnavailable},
		{http.MethodGet, "?denied=200", http.StatusBadRequest},
	} {
		a := proxied.mustAsk(c.method, proxied.url+"/v1/forward-auth"+c.query, "",
			"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /x", "X-Forwarded-Host: api.example")
		assert.Equal(t, c.want, a.status, "%s %s: %s", c.method, c.query, a.body)
	}

	open := start(t, nil)
	a := open.mustAsk(http.MethodPost, open.url+"/v1/check", `{"key":"a"}`, "X-Forwarded-For: 10.0.0.1")
	assert.Equal(t, http.StatusForbidden, a.status, a.body)
}
