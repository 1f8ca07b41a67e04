// Package client asks a Velocity service for decisions over its HTTP API.
//
// One [Client] serves a whole program: it keeps its connections, and checks that are asked at the same time ride together.
// While one call is in flight the next one fills, so that a lone check waits for nothing and a thousand at once cost a
// few calls.
//
// A check is not idempotent: asked twice it may take twice. The client never asks again where the service may have
// decided. An error that wraps [ErrUnavailable] says that nobody knows; what it means for the request at hand is the
// caller's to say, since the service's own failure policy did not reach it.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config says where the service is.
type Config struct {
	// URL of the data plane, for example http://localhost:3000. Required.
	URL string
	// Token is the service's VELOCITY_API_TOKEN. Empty: none is sent.
	Token string
	// Timeout bounds one call of the service; 0: a second. Checks that wait for a call before theirs wait for its
	// timeout at most, too.
	Timeout time.Duration
	// HTTPClient sends the calls; nil: one of the client's own, with connections that are kept. Its own Timeout, if
	// it has one, applies beside ours.
	HTTPClient *http.Client
}

// Validate reports every violation at once.
func (c Config) Validate() error {
	var errs []error
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = append(errs, fmt.Errorf("client: URL: %q: must be http://host:port or https://host:port", c.URL))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("client: Timeout: %v: must not be negative", c.Timeout))
	}
	return errors.Join(errs...)
}

// Client asks one service. Make it with [New]. Safe for concurrent use.
type Client struct {
	url     string
	token   string
	timeout time.Duration
	http    *http.Client
	own     *http.Transport // nil: the caller's

	mu       sync.Mutex
	inFlight bool     // a call of checks is under way
	waiting  []*asked // those of the next call
}

// defaultTimeout is far above what a decision takes, and below what a person waits.
const defaultTimeout = time.Second

// New connects to nothing yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Client{url: strings.TrimSuffix(cfg.URL, "/"), token: cfg.Token, timeout: cfg.Timeout, http: cfg.HTTPClient}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	if c.http == nil {
		c.own = http.DefaultTransport.(*http.Transport).Clone()
		c.own.MaxIdleConnsPerHost = 16
		c.http = &http.Client{Transport: c.own}
	}
	return c, nil
}

// Close lets go of idle connections of the client's own.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Check is one question.
type Check struct {
	// Policy is the name of the policy to decide by; empty: default.
	Policy string `json:"policy,omitempty"`
	// Key is the value of the policy's own key, as a user's name. Required.
	Key string `json:"key"`
	// Attributes are values of other keys that the policy's limits use, by source: "ip", "header:x-tenant".
	Attributes map[string]string `json:"attributes,omitempty"`
	// Cost in tokens; nil: 1. A check of [Tokens] 0 looks and takes nothing.
	Cost *int64 `json:"cost,omitempty"`
}

// Tokens is a [Check]'s Cost.
func Tokens(n int64) *int64 { return &n }

// Allow takes one token of the default policy for a key.
func (c *Client) Allow(ctx context.Context, key string) (bool, error) {
	r, err := c.Check(ctx, Check{Key: key})
	return r.Allowed, err
}

// Check takes the tokens if all limits of the policy allow, else none. A denial is a [Result], never an error. When ctx
// ends first, its error is returned, and the tokens may have been taken all the same.
func (c *Client) Check(ctx context.Context, check Check) (Result, error) {
	body, err := json.Marshal(check)
	if err != nil {
		return Result{}, err
	}
	return c.enqueue(ctx, body)
}

// CheckMany decides in order, in one call; at most [MaxChecks]. The error is of the call, and then nothing is known of
// any check; else each has its own answer.
func (c *Client) CheckMany(ctx context.Context, checks []Check) ([]Answer, error) {
	bodies := make([]json.RawMessage, len(checks))
	for i := range checks {
		body, err := json.Marshal(checks[i])
		if err != nil {
			return nil, err
		}
		bodies[i] = body
	}
	return c.callMany(ctx, bodies)
}

// Refund gives tokens back, never above the capacity. A lost answer must not be asked for again: what was given twice can
// be spent twice.
func (c *Client) Refund(ctx context.Context, what Check) (Result, error) {
	return c.settle(ctx, "/v1/refund", what)
}

// Charge takes tokens unconditionally, for a cost that is known only afterwards; the balance may go below zero.
func (c *Client) Charge(ctx context.Context, what Check) (Result, error) {
	return c.settle(ctx, "/v1/charge", what)
}

func (c *Client) settle(ctx context.Context, path string, what Check) (Result, error) {
	body, err := json.Marshal(what)
	if err != nil {
		return Result{}, err
	}
	return c.callOne(ctx, path, body)
}
