package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/web/overridejson"
)

// Inspect shows what one client has left.
var Inspect = command.Command{
	Name: "inspect", Args: "[-policy NAME] CLIENT", Purpose: "show what one client has spent in a running service",
	Usage: "[-policy NAME] [-source KEY] CLIENT",
	Help: "Shows the buckets, quotas and permits of one client, named by the value of the policy's key. Times are in UTC.\n" +
		sourceHelp + adminHelp,
	Define: func(f *flag.FlagSet) command.Action {
		flags := newBucketFlags(f)
		return func(ctx context.Context, args []string, s command.Streams) error {
			c, path, err := flags.parse(args)
			if err != nil {
				return err
			}
			var report bucketReport
			body, err := flags.get(ctx, c, path, &report)
			if err == nil {
				flags.print(s.Out, body, func() { report.print(s.Out) })
			}
			return err
		}
	},
}

// sourceHelp is about -source.
const sourceHelp = `
A policy may count by other keys, too. -source names one of them, as the policy file writes it, and CLIENT is then its value:
-source header:x-tenant for a limit with this key of its own, -source ip for the address of a client whose requests had no
value for the key. Several values of one key have & between them. Under the key global all requests are one client, and CLIENT is any
word, such as all.
`

// The paths of what the admin plane says of clients, and does to them.
const bucketsPath, permitsPath = "/v1/buckets/", "/v1/permits/"

// bucketFlags are the flags of the commands about one client under one policy.
type bucketFlags struct {
	adminFlags
	policy, source string
}

func newBucketFlags(f *flag.FlagSet) *bucketFlags {
	b := new(bucketFlags)
	b.define(f)
	f.StringVar(&b.policy, "policy", "default", "the `policy`, or shared/NAME for a shared limit")
	f.StringVar(&b.source, "source", "", "the `key` that CLIENT is a value of, if not the policy's own: ip, header:x-tenant")
	return b
}

// parse returns a client of the admin plane, and the path of the buckets of the client that args name.
func (b *bucketFlags) parse(args []string) (c *adminClient, path string, err error) {
	if len(args) != 1 || args[0] == "" {
		return nil, "", command.UsageError{Err: errors.New("one client must be named; under a key of global, any word names it")}
	}
	path = bucketsPath + url.PathEscape(b.policy) + "/" + url.PathEscape(args[0])
	if b.source != "" {
		path += "?source=" + url.QueryEscape(b.source)
	}
	c, err = newAdminClient(b.addr)
	return c, path, err
}

// get asks for the buckets of one client. If the policy does not exist, the error names those that do.
func (b *bucketFlags) get(ctx context.Context, c *adminClient, path string, out *bucketReport) (body []byte, err error) {
	body, err = c.get(ctx, path, out)
	if refusedWith(err, http.StatusNotFound) {
		err = cmp.Or(c.checkPolicy(ctx, b.policy, true), err)
	}
	return body, err
}

// bucketReport is the answer of /v1/buckets.
type bucketReport struct {
	Policy, Source, Key, Store string
	Now                        time.Time
	Limits                     []limitReport
	Override                   *overridejson.Override
	Conditions                 []string
}

// limitReport is a limit of a bucketReport, of any kind.
type limitReport struct {
	Name, Kind, Rate string
	UpdatedAt        time.Time `json:"updated_at"`
	// Of a bucket.
	Capacity int64
	Tokens   json.Number
	FullAt   time.Time `json:"full_at"`
	// Of a quota.
	Limit, Used int64
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	// Of a concurrency limit.
	HeldTotal int64 `json:"held_total"`
	Held      []permitReport
}

// permitReport is a permit of a limitReport. Since is zero, and Cost 0, if they are not known.
type permitReport struct {
	ID        string
	Since     time.Time
	ExpiresAt time.Time `json:"expires_at"`
	Cost      int64
}

func (l *limitReport) isQuota() bool       { return l.Kind == domain.KindQuota.String() }
func (l *limitReport) isConcurrency() bool { return l.Kind == domain.KindConcurrency.String() }

// isUnspent reports whether the bucket is full, the quota unused, or no permit held.
func (l *limitReport) isUnspent(now time.Time) bool {
	switch {
	case l.isQuota():
		return l.Used == 0
	case l.isConcurrency():
		return l.HeldTotal == 0
	default:
		return !l.FullAt.After(now)
	}
}

func (r *bucketReport) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s under %s, by %s, in %s\n", command.Printable(r.Key), r.Policy, r.Source, r.Store)
	if r.Override != nil {
		_, _ = fmt.Fprintf(w, "override: %s\n", overrideText(r.Override))
	}
	buckets := command.NewTable(w, "BUCKET\tRATE\tTOKENS\tCAPACITY\tFULL IN\tLAST UPDATE")
	quotas := command.NewTable(w, "QUOTA\tRATE\tUSED\tOF\tPERIOD FROM\tTO\tENDS IN\tLAST UPDATE")
	hasBuckets, hasQuotas := false, false
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.isConcurrency() {
			continue
		}
		if l.isQuota() {
			hasQuotas = true
			_, _ = fmt.Fprintf(quotas, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", l.Name, l.Rate, l.Used, l.Limit,
				command.Stamp(l.PeriodStart), command.Stamp(l.PeriodEnd), wholeSeconds(l.PeriodEnd.Sub(r.Now)), l.updated())
			continue
		}
		hasBuckets = true
		full := "full"
		if !l.isUnspent(r.Now) {
			full = l.FullAt.Sub(r.Now).Round(time.Millisecond).String()
		}
		_, _ = fmt.Fprintf(buckets, "%s\t%s\t%s\t%d\t%s\t%s\n", l.Name, l.Rate, l.Tokens, l.Capacity, full, l.updated())
	}
	if hasBuckets {
		_, _ = fmt.Fprintln(w)
		_ = buckets.Flush()
	}
	if hasQuotas {
		_, _ = fmt.Fprintln(w)
		_ = quotas.Flush()
	}
	r.printPermits(w)
	if len(r.Conditions) > 0 {
		_, _ = fmt.Fprintf(w, "\nThese are the limits of a request without %s: overrides with conditions may give this client others.\n",
			strings.Join(r.Conditions, " and "))
	}
	r.printIfUnspent(w)
}

// printPermits prints the concurrency limits, and the permits that are held of them.
func (r *bucketReport) printPermits(w io.Writer) {
	limits := command.NewTable(w, "CONCURRENCY\tHELD\tOF")
	permits := command.NewTable(w, "PERMIT\tOF\tHELD FOR\tLEASE ENDS IN\tCOST")
	found, listed, held := false, int64(0), int64(0)
	for i := range r.Limits {
		l := &r.Limits[i]
		if !l.isConcurrency() {
			continue
		}
		_, _ = fmt.Fprintf(limits, "%s\t%d\t%d\n", l.Name, l.HeldTotal, l.Limit)
		found, listed, held = true, listed+int64(len(l.Held)), held+l.HeldTotal
		for _, p := range l.Held {
			age, cost := "-", "-"
			if !p.Since.IsZero() {
				age = wholeSeconds(max(r.Now.Sub(p.Since), 0))
				cost = strconv.FormatInt(p.Cost, 10)
			}
			_, _ = fmt.Fprintf(permits, "%s\t%s\t%s\t%s\t%s\n", command.Printable(p.ID), l.Name, age, wholeSeconds(p.ExpiresAt.Sub(r.Now)), cost)
		}
	}
	if found {
		_, _ = fmt.Fprintln(w)
		_ = limits.Flush()
	}
	if listed > 0 {
		_, _ = fmt.Fprintln(w)
		_ = permits.Flush()
	}
	if held > listed {
		_, _ = fmt.Fprintf(w, "and %d more, whose leases end later\n", held-listed)
	}
}

func wholeSeconds(d time.Duration) string { return command.ShortDuration(d.Round(time.Second)) }

// updated is the time of the last change.
func (l *limitReport) updated() string {
	if l.UpdatedAt.Unix() <= 0 {
		return "-"
	}
	return l.UpdatedAt.UTC().Format("2006-01-02 15:04:05.000")
}

// printIfUnspent says so if nothing is spent of any limit, because another client may have been meant.
func (r *bucketReport) printIfUnspent(w io.Writer) {
	for i := range r.Limits {
		if !r.Limits[i].isUnspent(r.Now) {
			return
		}
	}
	_, _ = fmt.Fprintln(w, "\nNothing is spent: this client was not seen, or its buckets are full again, its quotas' periods have ended, and it holds no permit.")
	switch {
	case r.Source == "ip" || r.Source == "ip/48":
		if !isClientAddress(r.Key) {
			_, _ = fmt.Fprintf(w, "This policy counts by address, and %s is none.\n", command.Printable(r.Key))
		}
	// A policy by one header, cookie or parameter counts requests without it by address. A policy by a list does not.
	case strings.Contains(r.Source, ":") && !strings.Contains(r.Source, ","):
		_, _ = fmt.Fprintf(w, "A client that had no %s counts by its address: -source ip\n", r.Source)
	}
}

// isClientAddress reports whether key is an address, or a network as velocity top shows the clients of IPv6.
func isClientAddress(key string) bool {
	if _, err := netip.ParseAddr(key); err == nil {
		return true
	}
	network, err := netip.ParsePrefix(key)
	return err == nil && network.String() == key
}
