package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const explainUsage = `Usage: api explain -policies FILE METHOD URL [-H 'Name: value']... [-client IP]

Tells which policy applies to a request and why those before it do not, which buckets it is counted in, and by which
limits, overrides included. The URL may be a path alone. Nothing is taken, and no store is asked.
`

const encodedSlashesHelp = "let %2f through, as the service does with VELOCITY_ENCODED_SLASHES=allow"

func runExplain(ctx context.Context, args []string, s streams) int {
	f := newFlags("explain", explainUsage)
	file := f.String("policies", "", "the policy `file`")
	client := f.String("client", "127.0.0.1", "the client's `address`")
	var paths httpfiber.PathRules
	f.BoolVar(&paths.EncodedSlashes, "encoded-slashes", false, encodedSlashesHelp)
	header := make(http.Header)
	f.Func("H", "a `header`, as in 'X-Client-ID: alice'; may be repeated", func(line string) error { return addHeader(header, line) })
	rest, code, done := parseFlags(f, args, s)
	if done {
		return code
	}
	if *file == "" || len(rest) != 2 {
		return s.misuse(f.Name(), errors.New("a policy file, a method and a URL must be named: -policies FILE METHOD URL"))
	}
	addr, err := netip.ParseAddr(*client)
	if err != nil {
		return s.misuse(f.Name(), fmt.Errorf("-client: %q: must be an address", *client))
	}
	asked, err := newAsked(rest[0], rest[1], header, paths)
	if err != nil {
		return s.misuse(f.Name(), err)
	}
	set, err := loadPolicies(*file)
	if err != nil {
		return s.failAll(err)
	}
	asked.request.Client = addr
	printMatches(s.out, asked, set.All(), set.Match(&asked.request))
	if err := printDecision(ctx, s.out, asked, set); err != nil {
		return s.fail(err)
	}
	return exitOK
}

func addHeader(h http.Header, line string) error {
	name, value, found := strings.Cut(line, ":")
	if !found || name == "" {
		return errors.New("must be 'Name: value'")
	}
	h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

// asked is a request that was written on a command line.
type asked struct {
	request domain.Request
	header  http.Header
	query   url.Values
	// written is the path as it was written, if its normal form is another.
	written string
}

func newAsked(method, target string, header http.Header, paths httpfiber.PathRules) (*asked, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	if u.Opaque != "" {
		return nil, fmt.Errorf("%q: must be a path, or a URL with http:// or https:// before its host", target)
	}
	path, err := paths.Normalize(u.EscapedPath())
	if err != nil {
		return nil, err
	}
	a := &asked{header: header, query: u.Query()}
	if path != u.EscapedPath() {
		a.written = u.EscapedPath()
	}
	if method = strings.ToUpper(method); method == http.MethodHead {
		method = http.MethodGet // as the doors do
	}
	host := u.Host
	if host == "" {
		host = header.Get("Host")
	}
	a.request = domain.Request{
		PolicyCost: true, Trusted: true, Method: method, Host: host, Path: path, Lookup: a.lookup,
	}
	return a, nil
}

// lookup refuses what is there twice, as the doors do.
func (a *asked) lookup(source domain.KeySource) (string, error) {
	var values []string
	switch source.Kind {
	case domain.SourceHeader:
		values = a.header.Values(source.Name)
	case domain.SourceCookie:
		for _, cookie := range (&http.Request{Header: a.header}).CookiesNamed(source.Name) {
			values = append(values, cookie.Value)
		}
	case domain.SourceQuery:
		values = a.query[source.Name]
	default:
	}
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", fmt.Errorf("%s is the client's key and was sent twice, so that the service answers 400", source)
}

// printMatches says of each policy up to the one that applies why it does or does not.
func printMatches(w io.Writer, a *asked, policies []*domain.Policy, applies *domain.Policy) {
	if a.written != "" {
		_, _ = fmt.Fprintf(w, "path %s is in its normal form %s\n", a.written, a.request.Path)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range policies {
		if p == applies {
			_, _ = fmt.Fprintf(table, "%s\tapplies: %s\n", p.Name, matchText(&p.Match))
			break
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", p.Name, mismatchText(p, &a.request))
	}
	_ = table.Flush()
	if applies == nil {
		_, _ = fmt.Fprintln(w, "no policy applies: the request is not limited")
	}
}

// mismatchText says which field keeps the request out.
func mismatchText(p *domain.Policy, req *domain.Request) string {
	m := &p.Match
	switch field := m.Mismatch(req); field {
	case "match.methods":
		return fmt.Sprintf("no: method %s is not %s", req.Method, strings.Join(m.Methods, " or "))
	case "match.host":
		if req.Host == "" {
			return fmt.Sprintf("no: the request names no host, and %s is wanted", m.Host)
		}
		return fmt.Sprintf("no: host %s is not %s", req.Host, m.Host)
	case "match.path":
		return fmt.Sprintf("no: path %s is not %s", req.Path, m.Path)
	default:
		return "no: it is for Envoy's descriptors"
	}
}

// printDecision has the use case itself decide, over a store that notes what it is asked.
func printDecision(ctx context.Context, w io.Writer, a *asked, policies ports.PolicySource) error {
	noted := new(notebook)
	d, err := app.NewRateLimiter(noted, noted, policies, unobserved{}).Decide(ctx, a.request)
	if err != nil || d.Policy == "" {
		return err
	}
	_, _ = fmt.Fprintln(w)
	client := "client " + d.Client
	switch {
	case d.ClientIsAddress:
		client += " (the request has no value for the policy's key, so the address stands in)"
	case d.KeyMissing:
		client += " (the request lacks a value that the policy counts by, so the address stands in there)"
	}
	switch d.Outcome {
	case domain.OutcomeBlocked:
		_, _ = fmt.Fprintf(w, "%s: blocked, 403\n", client)
	case domain.OutcomeExempt:
		_, _ = fmt.Fprintf(w, "%s: exempt, never limited\n", client)
	default:
		shadow := ""
		if d.Shadow {
			shadow = ", in shadow mode: a denial passes"
		}
		_, _ = fmt.Fprintf(w, "%s, cost %d%s\n", client, d.Cost, shadow)
		noted.print(w)
	}
	return nil
}

// notebook is a store in which every bucket is full. It notes what it is asked.
type notebook struct {
	mu    sync.Mutex
	takes []ports.TakeRequest
}

var _ ports.BucketStore = (*notebook)(nil)

// TakeMany implements ports.BucketStore.
func (n *notebook) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takes = append(n.takes, reqs...)
	for i := range reqs {
		buckets := make([]domain.Bucket, len(reqs[i].Limits))
		verdict, _ := domain.Apply(reqs[i].Op, reqs[i].Cost, reqs[i].Limits, buckets, 0)
		results[i] = ports.TakeResult{Verdict: verdict, Store: domain.StoreMemory, Buckets: buckets}
	}
}

// print prints a line for each limit, under its bucket group.
func (n *notebook) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "BUCKETS\tLIMIT\tRATE\tCAPACITY\tFILLS IN")
	for i := range n.takes {
		key := string(n.takes[i].Key)
		for j := range n.takes[i].Limits {
			l := &n.takes[i].Limits[j]
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", key, l.Name(), domain.FormatRate(l.Rate()), l.Capacity(), shortDuration(l.FillTime()))
			key = ""
		}
	}
	_ = table.Flush()
}

// unobserved is nobody who wants to know.
type unobserved struct{}

var _ ports.Observer = unobserved{}

func (unobserved) Decided(*domain.Request, *domain.Decision)     {}
func (unobserved) StoreFailed(string, domain.FailureMode, error) {}
