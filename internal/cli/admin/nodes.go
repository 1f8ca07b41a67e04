package admin

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

const nodesHelp = `
The admin planes' addresses are those of -addr, else of VELOCITY_ADMIN_ADDR, else 127.0.0.1:3001: one or several, with
commas between. Each is host:port or a URL. Of a host:port whose host is a name, such as a headless service of Kubernetes
or a service of compose, every address is a node. The token is VELOCITY_ADMIN_TOKEN, or the first one in the file that
VELOCITY_ADMIN_TOKEN_FILE names. If a node does not answer, the others are shown, and the exit status is 1.
`

// nodeFlags are the flags of the commands that ask several nodes.
type nodeFlags struct{ adminFlags }

func (n *nodeFlags) define(f *flag.FlagSet) {
	f.StringVar(&n.addr, "addr", "", "the nodes' `addresses`: host:port or URLs, with commas between")
	f.BoolVar(&n.json, "json", false, "print the answer as JSON; of several nodes the sum, with the nodes in \"nodes\"")
}

// nodeAnswer is the answer of one node, decoded into report, or the error.
type nodeAnswer[T any] struct {
	node   string
	client *adminClient // nil if the node's name has no address
	body   []byte       // as it came
	report *T
	err    error
}

// askNodes asks every node, all at once, for the path that fits their number, and returns an answer for each, in the order of
// the addresses.
func askNodes[T any](ctx context.Context, addrs string, pathFor func(nodes int) string) ([]nodeAnswer[T], error) {
	answers, err := findNodes[T](ctx, addrs)
	if err != nil {
		return nil, err
	}
	path := pathFor(len(answers))
	var wg sync.WaitGroup
	for i := range answers {
		a := &answers[i]
		if a.err != nil {
			continue
		}
		wg.Go(func() {
			report := new(T)
			if a.body, a.err = a.client.get(ctx, path, report); a.err == nil {
				a.report = report
			}
		})
	}
	wg.Wait()
	return answers, nil
}

// findNodes returns the nodes of a list of addresses, with the error of each whose name was not found.
func findNodes[T any](ctx context.Context, addrs string) ([]nodeAnswer[T], error) {
	var nodes []nodeAnswer[T]
	seen := make(map[string]bool)
	from := "-addr"
	if addrs == "" {
		from, addrs = "VELOCITY_ADMIN_ADDR", os.Getenv("VELOCITY_ADMIN_ADDR")
	}
	for addr := range strings.SplitSeq(addrs, ",") {
		addr = strings.TrimSpace(addr)
		if addr == "" && addrs != "" { // it would be the default address
			return nil, command.UsageError{Err: fmt.Errorf("%s: %q: one of the addresses is empty", from, addrs)}
		}
		if _, err := newAdminClient(addr); err != nil {
			return nil, err
		}
		found, err := resolve(ctx, addr)
		if err != nil {
			nodes = append(nodes, nodeAnswer[T]{node: addr, err: err})
		}
		for _, one := range found {
			client, err := newAdminClient(one)
			if err != nil {
				return nil, err
			}
			if !seen[client.base] {
				seen[client.base] = true
				nodes = append(nodes, nodeAnswer[T]{node: strings.TrimPrefix(client.base, "http://"), client: client})
			}
		}
	}
	return nodes, nil
}

// resolve returns the addresses of a host:port whose host is a name, each with the port. A URL is one node, since it may be
// that of a proxy, and so is localhost. If a name has addresses of both kinds, those of IPv4 are taken: each node has one.
func resolve(ctx context.Context, addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	_, notAnAddress := netip.ParseAddr(host)
	if err != nil || notAnAddress == nil || host == "" || host == "localhost" || strings.Contains(addr, "://") {
		return []string{addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return nodeAddrs(ips, port), nil
}

// nodeAddrs returns the addresses of a name's nodes, in order.
func nodeAddrs(ips []netip.Addr, port string) []string {
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	if slices.ContainsFunc(ips, netip.Addr.Is4) {
		ips = slices.DeleteFunc(ips, netip.Addr.Is6)
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = net.JoinHostPort(ip.String(), port)
	}
	return out
}

// reports returns the reports of the nodes that answered.
func reports[T any](answers []nodeAnswer[T]) []*T {
	var out []*T
	for _, a := range answers {
		if a.err == nil {
			out = append(out, a.report)
		}
	}
	return out
}

// failures returns an error that names each node that did not answer; nil if all did. That of an only node is returned as it is.
func failures[T any](answers []nodeAnswer[T]) error {
	if len(answers) == 1 {
		return answers[0].err
	}
	var errs []error
	for _, a := range answers {
		if a.err == nil {
			continue
		}
		text := a.err.Error()
		if !strings.Contains(text, a.node) {
			text = a.node + ": " + text
		}
		errs = append(errs, errors.New(text))
	}
	if len(errs) == 0 {
		return nil
	}
	return command.ListError{Err: errors.Join(append([]error{
		fmt.Errorf("velocity: %d of %d nodes did not answer and are not counted", len(errs), len(answers)),
	}, errs...)...)}
}

// jsonNode is a node in the JSON that a command prints about several.
type jsonNode struct {
	Node   string          `json:"node"`
	Error  string          `json:"error,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// jsonNodes lists the nodes, each with its own answer if whole is set.
func jsonNodes[T any](answers []nodeAnswer[T], whole bool) []jsonNode {
	out := make([]jsonNode, len(answers))
	for i, a := range answers {
		out[i] = jsonNode{Node: a.node}
		switch {
		case a.err != nil:
			out[i].Error = a.err.Error()
		case whole:
			out[i].Answer = a.body
		}
	}
	return out
}

// refusedByAll returns the refusal that every node gave, such as that of a wrong argument; else nil.
func refusedByAll[T any](answers []nodeAnswer[T]) error {
	for _, a := range answers {
		if r, ok := errors.AsType[*refusal](a.err); !ok || r.status >= http.StatusInternalServerError || r.detail != answers[0].err.Error() {
			return nil
		}
	}
	return answers[0].err
}
