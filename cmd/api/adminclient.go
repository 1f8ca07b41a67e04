package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	adminUsageEnd = `
The admin plane's address is -addr, else VELOCITY_ADMIN_ADDR, else 127.0.0.1:3001; its token is VELOCITY_ADMIN_TOKEN.
`
	adminAnswerTimeout = 15 * time.Second
	maxAdminAnswer     = 16 << 20
)

// errNotFound says that the admin plane knows nothing of that name.
var errNotFound = errors.New("not found")

// adminFlags are the flags that every client of the admin plane has.
type adminFlags struct {
	addr string
	json bool
}

func (a *adminFlags) define(f *flag.FlagSet) {
	f.StringVar(&a.addr, "addr", "", "the admin plane's `address`: host:port, or a URL")
	f.BoolVar(&a.json, "json", false, "print the answer as JSON")
}

// adminClient asks one admin plane.
type adminClient struct {
	base  string
	token string
	http  *http.Client
}

func newAdminClient(addr string) (*adminClient, error) {
	if addr == "" {
		addr = os.Getenv(prefix + "ADMIN_ADDR")
	}
	if addr == "" {
		addr = "127.0.0.1:3001"
	}
	if !strings.Contains(addr, "://") {
		addr = "http://" + dialable(addr)
	}
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("-addr: %q: must be host:port or an http URL", addr)
	}
	return &adminClient{
		base:  strings.TrimSuffix(addr, "/"),
		token: strings.TrimSpace(os.Getenv(prefix + "ADMIN_TOKEN")),
		http:  &http.Client{Timeout: adminAnswerTimeout},
	}, nil
}

// ask returns the body of an answer, which may be empty. What the admin plane refuses is an error, in its words.
func (c *adminClient) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nobody listens at %s: the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR", c.base)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, refusal(resp, body)
	}
	return body, nil
}

func refusal(resp *http.Response, body []byte) error {
	var problem struct{ Detail string }
	switch {
	case json.Unmarshal(body, &problem) != nil || problem.Detail == "":
		return fmt.Errorf("the admin plane answered %s", resp.Status)
	case resp.StatusCode == http.StatusUnauthorized:
		return errors.New(problem.Detail + " (set VELOCITY_ADMIN_TOKEN)")
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %s", errNotFound, problem.Detail)
	}
	return errors.New(problem.Detail)
}

// get decodes an answer into out. The body is returned, too, for whoever wants it as it is.
func (c *adminClient) get(ctx context.Context, path string, out any) ([]byte, error) {
	body, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s%s is no admin plane of this version: %w", c.base, path, err)
	}
	return body, nil
}

// show prints what was answered, as it came or by table, and is the exit code.
func (s streams) show(asJSON bool, body []byte, err error, table func()) int {
	switch {
	case err != nil:
		return s.fail(err)
	case asJSON:
		printJSON(s.out, body)
	default:
		table()
	}
	return exitOK
}

// clientCommand is what a command about one client under one policy is told.
type clientCommand struct {
	adminFlags
	policy, source string
	key            string
}

// parse reads the flags, which f may have more of, and the client. Where done is set, the command is over with this exit
// code.
func (n *clientCommand) parse(f *flag.FlagSet, args []string, s streams) (c *adminClient, code int, done bool) {
	n.define(f)
	f.StringVar(&n.policy, "policy", "default", "the `policy`")
	f.StringVar(&n.source, "source", "", "`ip`, for a client whose requests had no key")
	rest, code, done := parseFlags(f, args, s)
	if done {
		return nil, code, true
	}
	var err error
	if n.key, err = oneKey(rest); err == nil {
		c, err = newAdminClient(n.addr)
	}
	if err != nil {
		return nil, s.misuse(f.Name(), err), true
	}
	return c, exitOK, false
}

func (n *clientCommand) path() string {
	path := "/v1/buckets/" + url.PathEscape(n.policy) + "/" + url.PathEscape(n.key)
	if n.source != "" {
		path += "?source=" + url.QueryEscape(n.source)
	}
	return path
}

// buckets asks for one client's buckets. Where there is no such policy, the error names those that there are.
func (c *adminClient) buckets(ctx context.Context, n *clientCommand, out *bucketReport) (body []byte, err error) {
	body, err = c.get(ctx, n.path(), out)
	if !errors.Is(err, errNotFound) {
		return body, err
	}
	var there struct{ Policies []struct{ Name string } }
	if _, err := c.get(ctx, "/v1/policies", &there); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range there.Policies[:min(len(there.Policies), maxNamed)] {
		names = append(names, p.Name)
	}
	if len(there.Policies) > maxNamed {
		names = append(names, "...")
	}
	return nil, fmt.Errorf("-policy: %q: there is no policy of this name: there are %s", n.policy, strings.Join(names, ", "))
}

// maxNamed is how many policies an error names.
const maxNamed = 20

// oneKey returns the only argument, which must not be empty.
func oneKey(args []string) (string, error) {
	if len(args) != 1 || args[0] == "" {
		return "", errors.New("one client must be named")
	}
	return args[0], nil
}

// printJSON writes an answer as it came, on a line.
func printJSON(w io.Writer, body []byte) { _, _ = fmt.Fprintf(w, "%s\n", body) }
