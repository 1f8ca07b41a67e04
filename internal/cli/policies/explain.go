package policies

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

// Explain shows which policy applies to a request, and why.
var Explain = command.Command{
	Name: "explain", Args: "-policies FILE METHOD URL", Purpose: "show which policy applies to a request, and why",
	Usage: "-policies FILE METHOD URL [-header 'Name: value']... [-jwt TOKEN|@FILE] [-body TEXT|@FILE] [-client IP]",
	Help: `Shows which policy applies to a request and why those before it do not, which override applies to its client and why, which
buckets count it, and by which limits. COST is what it takes from a limit. The URL may be a path alone. No token is taken, and no
store is asked, so overrides at run time are not known: velocity inspect shows them. A token (JWT) of -jwt, or of a header, is
verified by the file's section jwt, whose keys are read.
`,
	Define: func(f *flag.FlagSet) command.Action {
		var e explainFlags
		f.StringVar(&e.file, "policies", "", "the policy `file`")
		f.StringVar(&e.client, "client", "127.0.0.1", "the client's `address`")
		f.Func("jwt", "a `token` (JWT) that the request carries, or @FILE, a file that holds one", func(text string) error {
			if e.token = strings.TrimSpace(text); e.token == "" {
				return errors.New("is empty")
			}
			return nil
		})
		f.StringVar(&e.body, "body", "", "the request's `body`, or @FILE, a file that holds it; estimates of the cost may be in it")
		definePathRules(f, &e.paths)
		addHeader := func(line string) error { // checked later: an error of the flag would show the line, which may have a token
			e.headers = append(e.headers, line)
			return nil
		}
		f.Func("header", "a `header`, as in 'X-Client-ID: alice'; may be repeated", addHeader)
		f.Func("H", "a `header`: the same as -header", addHeader)
		return e.run
	},
}

type explainFlags struct {
	file, client, token, body string
	paths                     cleanpath.Rules
	headers                   []string // lines
}

// definePathRules defines the flag that stands for VELOCITY_ENCODED_SLASHES.
func definePathRules(f *flag.FlagSet, paths *cleanpath.Rules) {
	f.BoolVar(&paths.EncodedSlashes, "encoded-slashes", false, "let %2f through, as the service does with VELOCITY_ENCODED_SLASHES=allow")
}

func (e *explainFlags) run(ctx context.Context, args []string, s command.Streams) error {
	if e.file == "" || len(args) != 2 {
		return command.UsageError{Err: errors.New("a policy file, a method and a URL must be named: -policies FILE METHOD URL")}
	}
	addr, err := netip.ParseAddr(e.client)
	if err != nil {
		return command.UsageError{Err: fmt.Errorf("-client: %q: must be an address", e.client)}
	}
	header, err := readHeader(e.headers)
	if err != nil {
		return command.UsageError{Err: err}
	}
	req, err := newWrittenRequest(args[0], args[1], header, e.paths)
	if err != nil {
		return command.UsageError{Err: err}
	}
	set, err := loadPolicies(e.file)
	if err != nil {
		return err
	}
	req.Client, req.Body = addr, bodyOf(e.body)
	tokens, err := e.verify(ctx, req, set.JWT)
	if err != nil {
		return err
	}
	applies, err := set.Match(&req.Request)
	if err != nil {
		return err
	}
	printMatches(s.Out, req, set.All(), applies)
	err = printDecision(ctx, s.Out, req, set)
	tokens.print(s.Out, applies)
	if text := unknownSecret(set.All(), "the service has other HMACs"); err == nil && text != "" {
		_, _ = fmt.Fprintln(s.Out, "\n"+text)
	}
	return err
}

func readHeader(lines []string) (http.Header, error) {
	h := make(http.Header)
	for _, line := range lines {
		name, value, found := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found || name == "" || strings.ContainsAny(name, " \t") || strings.ContainsAny(line, "\r\n") {
			return nil, errors.New("-header: must be 'Name: value'")
		}
		h.Add(name, value)
	}
	return h, nil
}

// writtenRequest is a request that was written on the command line.
type writtenRequest struct {
	policy.Request
	header http.Header
	query  url.Values
	tokens *writtenToken
	// written is the path as it was written; empty if that is its normal form.
	written string
}

// letters are those of the methods that HTTP and its extensions define, and the hyphen of a few.
const letters = "-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func newWrittenRequest(method, target string, header http.Header, paths cleanpath.Rules) (*writtenRequest, error) {
	if strings.Trim(method, letters) != "" || method == "" {
		return nil, fmt.Errorf("%q: must be a method, such as GET", method)
	}
	host, written, query, err := splitTarget(target)
	if err != nil {
		return nil, err
	}
	path, err := paths.Normalize(written)
	if err != nil {
		return nil, err
	}
	r := &writtenRequest{header: header}
	r.query, _ = url.ParseQuery(query) // without the parameters that cannot be read
	if path != written {
		r.written = written
	}
	if method = strings.ToUpper(method); method == http.MethodHead {
		method = http.MethodGet // by which it is decided
	}
	r.Request = policy.Request{
		PolicyCost: true, Trusted: true, HoldsPermit: true, MaxWait: policy.MaxMaxWait,
		Method: method, Host: cmp.Or(host, header.Get("Host")), Path: path, Lookup: r.lookup,
		Elements: func(source clientkey.Source) []string { return r.tokens.elements(source) },
	}
	return r, nil
}

// splitTarget splits a request target as the service does: a path with a query, in which two slashes at the start name no
// host, or a whole URL.
func splitTarget(target string) (host, path, query string, err error) {
	path = target
	if !strings.HasPrefix(target, "/") {
		shown, _, _ := strings.Cut(target, "?") // a query may have a secret
		u, err := url.Parse(target)
		if failed, ok := errors.AsType[*url.Error](err); ok {
			return "", "", "", fmt.Errorf("%q: %w", shown, failed.Err)
		}
		if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", "", "", fmt.Errorf("%q: must be a path, or a URL with http:// or https:// before its host", shown)
		}
		_, rest, _ := strings.Cut(target, "://")
		host, path = u.Host, ""
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			path = rest[end:]
		}
	}
	path, _, _ = strings.Cut(path, "#")
	path, query, _ = strings.Cut(path, "?")
	return host, path, query, nil
}

// lookup implements the request's Lookup. Like the service, it refuses a value that was sent twice.
func (r *writtenRequest) lookup(source clientkey.Source) (string, error) {
	var values []string
	switch source.Kind {
	case clientkey.SourceHeader:
		values = r.header.Values(source.Name)
	case clientkey.SourceCookie:
		for _, cookie := range (&http.Request{Header: r.header}).CookiesNamed(source.Name) {
			values = append(values, cookie.Value)
		}
	case clientkey.SourceQuery:
		values = r.query[source.Name]
	case clientkey.SourceClaim:
		return r.tokens.claim(source), nil
	default:
	}
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", fmt.Errorf("%s was sent twice, and the decision depends on it, so that the service answers 400", source)
}

// printMatches says of each policy up to the one that applies why it does or does not.
func printMatches(w io.Writer, r *writtenRequest, policies []*policy.Policy, applies *policy.Policy) {
	if r.written != "" {
		_, _ = fmt.Fprintf(w, "path %s is in its normal form %s\n", r.written, r.Path)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range policies {
		if p == applies {
			_, _ = fmt.Fprintf(table, "%s\tapplies: %s\n", p.Name, matchText(&p.Match))
			break
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", p.Name, mismatchText(p, &r.Request))
	}
	_ = table.Flush()
	if applies == nil {
		_, _ = fmt.Fprintln(w, "no policy applies: the request is not limited")
	}
}

// mismatchText says which field of the match the request does not fulfil.
func mismatchText(p *policy.Policy, req *policy.Request) string {
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
	case "match.headers":
		return "no: not every header fits: " + policy.ConditionsText(m.Headers)
	default:
		return "no: it is for Envoy's descriptors"
	}
}

// printDecision decides the request as the service does, with a store that records what it is asked.
func printDecision(ctx context.Context, w io.Writer, r *writtenRequest, policies ports.PolicySource) error {
	store := new(recordingStore)
	d, err := app.NewRateLimiter(store, store, policies, noObserver{}).Decide(ctx, r.Request)
	if errors.Is(err, domain.ErrMissingKey) {
		_, _ = fmt.Fprintf(w, "\nrefused, 401: %v\n", err)
		return nil
	}
	if err != nil || d.Policy == "" {
		return err
	}
	_, _ = fmt.Fprintln(w)
	client := "client " + d.Client
	switch {
	case d.ClientIsAddress:
		client += " (the request has no value for the policy's key, so the address stands in)"
	case d.UsedFallbackKey:
		client += " (the request lacks a value that the policy counts by, so the address stands in there)"
	}
	switch d.Outcome {
	case decision.OutcomeBlocked:
		_, _ = fmt.Fprintf(w, "%s: blocked, 403\n", client)
	case decision.OutcomeExempt:
		if d.AppliedPolicy.SkipPreflight && r.IsPreflight() {
			_, _ = fmt.Fprintf(w, "%s: a CORS preflight, which costs nothing\n", client)
			return nil
		}
		_, _ = fmt.Fprintf(w, "%s: exempt, never limited\n", client)
	default:
		more := ""
		if wait := store.takes[0].MaxWait; wait > 0 {
			more = ", may wait for up to " + command.ShortDuration(wait)
		}
		if d.Shadow {
			more += ", in shadow mode: a denial passes"
		}
		_, _ = fmt.Fprintf(w, "%s, cost %d%s\n", client, d.Cost, more)
		printOverride(w, r, &d)
		store.print(w)
		printCostRemarks(w, &d)
		printBelief(w, d.AppliedPolicy)
		if text := deniedText(d.AppliedPolicy); text != "" {
			_, _ = fmt.Fprintf(w, "\n%s: %s\n", d.Policy, text)
		}
	}
	return nil
}

// recordingStore is a store in which every bucket is full. It records what it is asked, by one request at a time.
type recordingStore struct{ takes []ports.TakeRequest }

var _ ports.BucketStore = (*recordingStore)(nil)

// TakeMany implements ports.BucketStore.
func (s *recordingStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	s.takes = append(s.takes, reqs...)
	for i := range reqs {
		states := make([]domain.State, len(reqs[i].Limits))
		verdict, _ := domain.Apply(reqs[i].Operation(), reqs[i].Limits, states, nil, 0)
		results[i] = ports.TakeResult{Verdict: verdict, Store: decision.StoreMemory, States: states}
	}
}

// print writes a line for each limit, grouped by buckets.
func (s *recordingStore) print(w io.Writer) {
	table := command.NewTable(w, "BUCKETS\tLIMIT\tRATE\tCAPACITY\tCOST\tFULL AGAIN")
	for i := range s.takes {
		key := string(s.takes[i].Key)
		for j := range s.takes[i].Limits {
			l := &s.takes[i].Limits[j]
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\n", key, l.Name(), rateText(l), l.Capacity(), l.CostOf(s.takes[i].Cost), fullAgain(l))
			key = ""
		}
	}
	_ = table.Flush()
}

// noObserver ignores what a limiter reports.
type noObserver struct{}

var _ ports.Observer = noObserver{}

func (noObserver) Decided(*policy.Request, *decision.Decision)   {}
func (noObserver) StoreFailed(string, policy.FailureMode, error) {}
