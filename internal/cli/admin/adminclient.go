package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/settings"
)

const (
	adminHelp = `
The admin plane's address is -addr, else VELOCITY_ADMIN_ADDR, else 127.0.0.1:3001; its token is VELOCITY_ADMIN_TOKEN,
or the first one in the file that VELOCITY_ADMIN_TOKEN_FILE names.
`
	adminTimeout    = 15 * time.Second
	maxAdminAnswer  = 16 << 20
	maxNamesInError = 20
)

// refusal is an answer with the status of an error.
type refusal struct {
	status int
	detail string
}

// Error implements error.
func (r *refusal) Error() string { return r.detail }

// refusedWith reports whether err is an answer with this status.
func refusedWith(err error, status int) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == status
}

// adminFlags are the flags of every command that asks the admin plane.
type adminFlags struct {
	addr string
	json bool
}

func (a *adminFlags) define(f *flag.FlagSet) {
	f.StringVar(&a.addr, "addr", "", "the admin plane's `address`: host:port, or a URL")
	f.BoolVar(&a.json, "json", false, "print the answer as JSON")
}

// print writes an answer: the body as it is if -json is set, else what table prints.
func (a *adminFlags) print(w io.Writer, body []byte, table func()) {
	if a.json {
		_, _ = fmt.Fprintf(w, "%s\n", body)
	} else {
		table()
	}
}

// adminClient sends requests to one admin plane.
type adminClient struct {
	base  string
	token string
	http  *http.Client
}

func newAdminClient(addr string) (*adminClient, error) {
	addr = cmp.Or(addr, os.Getenv("VELOCITY_ADMIN_ADDR"), "127.0.0.1:3001")
	if !strings.Contains(addr, "://") {
		addr = "http://" + dialable(addr)
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, command.UsageError{Err: fmt.Errorf("-addr: %q: must be host:port or an http URL", addr)}
	}
	token, err := settings.AdminToken()
	if err != nil {
		return nil, command.UsageError{Err: err}
	}
	return &adminClient{
		base:  strings.TrimSuffix(addr, "/"),
		token: string(token),
		http:  &http.Client{Timeout: adminTimeout},
	}, nil
}

// dialable turns an address to listen on into one to connect to: an address that stands for every interface becomes
// loopback.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // the settings have been validated
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if ip.Is6() {
			return net.JoinHostPort("::1", port)
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// ask sends a request and returns the body of the answer, which may be empty. An error status is returned as an error
// with the detail that the admin plane gives.
func (c *adminClient) ask(ctx context.Context, method, path string) ([]byte, error) {
	return c.send(ctx, method, path, nil)
}

// send is ask with a body of JSON; nil: there is none.
func (c *adminClient) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nothing listens at %s: the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR", c.base)
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return nil, fmt.Errorf("%s: %w", c.base, failed.Err) // without the path, which may have a secret
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, statusError(resp, answer)
	}
	return answer, nil
}

func statusError(resp *http.Response, body []byte) error {
	var problem struct{ Detail string }
	switch {
	case json.Unmarshal(body, &problem) != nil || problem.Detail == "":
		return fmt.Errorf("the admin plane answered %s", resp.Status)
	case resp.StatusCode == http.StatusUnauthorized:
		return errors.New(problem.Detail + " (set VELOCITY_ADMIN_TOKEN)")
	}
	return &refusal{resp.StatusCode, problem.Detail}
}

// get decodes an answer into out. It also returns the body as it came.
func (c *adminClient) get(ctx context.Context, path string, out any) ([]byte, error) {
	body, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, c.otherVersion(err)
	}
	return body, nil
}

// otherVersion is the error for an answer that cannot be decoded.
func (c *adminClient) otherVersion(err error) error {
	return fmt.Errorf("%s is no admin plane of this version: %w", c.base, err)
}

// policyNames returns the names of the policies of the service, and after them those of the shared limits, if sharedToo is set.
// overridden are those that have overrides: also shared limits that no policy uses, and what is gone.
func (c *adminClient) policyNames(ctx context.Context, sharedToo bool) (names, overridden []string, err error) {
	var known struct {
		Overridden []string
		Policies   []struct {
			Name   string
			Limits []struct {
				Name   string
				Shared bool
			}
		}
	}
	if _, err := c.get(ctx, "/v1/policies", &known); err != nil {
		return nil, nil, err
	}
	for _, p := range known.Policies {
		names = append(names, p.Name)
	}
	for _, p := range known.Policies {
		for _, l := range p.Limits {
			if shared := "shared/" + l.Name; sharedToo && l.Shared && !slices.Contains(names, shared) {
				names = append(names, shared)
			}
		}
	}
	return names, known.Overridden, nil
}

// hasSecretKeys reports whether a policy of the service has a secret key, or may have one.
func (c *adminClient) hasSecretKeys(ctx context.Context) bool {
	var known struct {
		Policies []struct {
			SecretKeys []string `json:"secret_keys"`
		}
	}
	_, err := c.get(ctx, "/v1/policies", &known)
	for _, p := range known.Policies {
		if len(p.SecretKeys) > 0 {
			return true
		}
	}
	return err != nil
}

// clientName returns the text by which output names a client that the operator called key. secrets says that this may be a secret.
func clientName(key string, secrets bool) string {
	if secrets && !clientkey.Listed(key) {
		return "the client"
	}
	return command.Printable(key)
}

// checkPolicy returns an error that names the policies of the service if it has none of this name. sharedToo says that the name
// may be that of a shared limit.
func (c *adminClient) checkPolicy(ctx context.Context, name string, sharedToo bool) error {
	names, _, err := c.policyNames(ctx, sharedToo)
	if err != nil || slices.Contains(names, name) {
		return err
	}
	if len(names) > maxNamesInError {
		names = append(names[:maxNamesInError], "...")
	}
	return fmt.Errorf("-policy: %q: there is no policy of this name: the service has %s", name, strings.Join(names, ", "))
}
