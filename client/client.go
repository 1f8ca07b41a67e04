// Package client asks a Velocity service for decisions over its HTTP API.
//
// Use one [Client] for a whole program. It reuses its connections and sends concurrent checks in batches: while one call is
// in flight, new checks wait for the next one. A single check is sent at once, and a thousand concurrent ones take a few
// calls.
//
// A check is not idempotent: if it is sent twice, it may take tokens twice. The client never repeats a check that the service
// may have decided. After an error that wraps [ErrUnavailable] the outcome is unknown, and the caller must decide whether its
// request may pass.
package client

import (
	"cmp"
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

// Config configures a [Client].
type Config struct {
	// URL of the service, for example http://localhost:3000. Required.
	URL string
	// Token is the service's VELOCITY_API_TOKEN. If it is empty, none is sent.
	Token string
	// Timeout bounds one call to the service. Zero means one second. A check may have to wait for an earlier call first, and
	// so for twice as long.
	Timeout time.Duration
	// HTTPClient sends the calls. If it is nil, the client makes its own, which reuses connections. If the program has replaced
	// http.DefaultTransport by a type of its own, that sends the calls. A Timeout of HTTPClient applies too.
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

// Client asks one service. Make it with [New]. It is safe for concurrent use.
type Client struct {
	url     string
	token   string
	timeout time.Duration
	http    *http.Client
	own     *http.Transport // nil if the transport is the caller's

	mu       sync.Mutex
	inFlight bool       // a call is in flight
	waiting  []*pending // for the next call
}

// defaultTimeout is far longer than a decision takes.
const defaultTimeout = time.Second

// New returns a client. It opens no connection yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Client{
		url: strings.TrimSuffix(cfg.URL, "/"), token: cfg.Token, timeout: cmp.Or(cfg.Timeout, defaultTimeout), http: cfg.HTTPClient,
	}
	if c.http == nil {
		c.http = &http.Client{}
		// Another type is the program's own, such as one that traces each call. It is used as it is.
		if standard, ok := http.DefaultTransport.(*http.Transport); ok {
			c.own = standard.Clone()
			c.own.MaxIdleConnsPerHost = 16
			c.http.Transport = c.own
		}
	}
	return c, nil
}

// Close closes idle connections, unless their transport is the caller's.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Check asks whether a request may pass.
type Check struct {
	// Policy is the name of the policy that decides. Empty means "default".
	Policy string `json:"policy,omitempty"`
	// Key is the value of the policy's key, such as a user's name. Required.
	Key string `json:"key"`
	// Attributes are the values of other keys that the policy's limits use, by source: "ip", "header:x-tenant".
	Attributes map[string]string `json:"attributes,omitempty"`
	// Cost in tokens. Nil means 1. A check of [Tokens](0) takes nothing and returns the current level. Limits with a cost of
	// their own take that instead.
	Cost *int64 `json:"cost,omitempty"`
	// TakenAt is for refunds and charges: TakenAt of the [Result] by which the tokens were taken. A quota whose period has
	// ended since then is left alone. Zero means now. Only whole microseconds count.
	TakenAt time.Time `json:"-"`
	// MaxWait is for checks that may pass later rather than be denied: how long the caller is ready to wait for tokens that are yet
	// to come, at most an hour. The policy's max_wait bounds it, too. The caller then waits for Wait of the [Result]. Only whole
	// milliseconds count; zero means that it does not wait.
	MaxWait time.Duration `json:"-"`
}

// Tokens returns a pointer to n, for the Cost of a [Check].
func Tokens(n int64) *int64 { return &n }

// Allow takes one token of the default policy for a key.
func (c *Client) Allow(ctx context.Context, key string) (bool, error) {
	r, err := c.Check(ctx, Check{Key: key})
	return r.Allowed, err
}

// Check takes the tokens if all limits of the policy allow it, and otherwise none. A denial is a [Result], never an error. If
// ctx ends first, Check returns its error, and the tokens may have been taken; a permit that the service then grants is released.
//
// Under a policy with a concurrency limit, a check that is allowed holds a permit, until [Client.Release] ends it or its lease is over.
// If the answer is lost, the permit is held for its lease.
func (c *Client) Check(ctx context.Context, check Check) (Result, error) {
	body, err := check.encodeTake()
	if err != nil {
		return Result{}, err
	}
	return c.enqueue(ctx, body)
}

// CheckMany decides checks in order, in one call. Each has its own answer. If there are more than [MaxChecks], or their JSON is
// longer than the service reads, it makes several calls, one after another. An error means that a call failed, and that the
// outcome of every check is unknown. No further call is made then,
// but those that release permits; and none if there is nothing to send.
func (c *Client) CheckMany(ctx context.Context, checks []Check) ([]Answer, error) {
	answers := make([]Answer, len(checks))
	bodies := make([]json.RawMessage, 0, len(checks)) // of the checks that are sent
	for i := range checks {
		body, err := checks[i].encodeTake()
		if answers[i].Err = err; err == nil {
			bodies = append(bodies, body)
		}
	}
	var sent []Answer
	for len(sent) < len(bodies) {
		rest := bodies[len(sent):]
		n := inOneCall(len(rest), func(i int) json.RawMessage { return rest[i] })
		part, err := c.callMany(ctx, rest[:n])
		if err != nil {
			go c.endUnused(sent)
			return nil, err
		}
		sent = append(sent, part...)
	}
	for i := range answers {
		if answers[i].Err == nil {
			answers[i], sent = sent[0], sent[1:]
		}
	}
	return answers, nil
}

// Refund gives tokens back, up to the capacity. Limits with a cost of their own are left alone. Do not repeat a refund whose
// answer was lost: tokens that are given back twice can be spent twice.
func (c *Client) Refund(ctx context.Context, what Check) (Result, error) {
	return c.adjust(ctx, "/v1/refund", what)
}

// Charge takes tokens unconditionally, for a cost that is known only afterwards. The level may fall below zero. Limits with a
// cost of their own are left alone.
func (c *Client) Charge(ctx context.Context, what Check) (Result, error) {
	return c.adjust(ctx, "/v1/charge", what)
}

func (c *Client) adjust(ctx context.Context, path string, what Check) (Result, error) {
	body, err := what.encodeAdjustment()
	if err != nil {
		return Result{}, err
	}
	return c.callOne(ctx, path, body)
}
