package domain

import "net/netip"

// Request asks for one decision. It is read only until the decision is made, and its strings are kept no longer,
// except for Client in the [Decision], which is a copy.
type Request struct {
	// Op is the operation; the zero value takes.
	Op Op
	// Cost in tokens; see [Op.CheckCost]. There is no default: 0 peeks.
	Cost Tokens
	// PolicyCost has the policy say the cost, by its [Cost]; the field Cost is then not read. A door whose client does
	// not name a cost sets it.
	PolicyCost bool
	// Trusted says that a trusted proxy sent the request, whose word about the cost is believed.
	Trusted bool
	// Policy asks for a policy by name. Empty: the first policy that matches.
	Policy string
	// Own is a policy that the caller brings: neither Policy nor what matches is looked at. It must be compiled. Its
	// buckets are apart from those of other policies by its name alone.
	Own *Policy
	// Method, Host and Path are what a policy matches. Path is in its normal form; HEAD counts as GET.
	Method, Host, Path string
	// Domain and Descriptor are what a policy for Envoy matches. A request with a Domain matches no other.
	Domain     string
	Descriptor []DescriptorEntry
	// Key is the value of the policy's own key, where the caller knows it; that of several sources as [ListValue] writes
	// it. Empty: Lookup is asked.
	Key string
	// Client is the address of the client; the zero Addr if it is not known.
	Client netip.Addr
	// Lookup returns the value of a header, a cookie or a parameter of the query; "" if the request has none. The value
	// must stay until the decision is made, and no longer. An error is returned to the caller as it is, but for
	// ErrNoValue, which becomes a FieldError that names the source. Nil: the request has no values.
	Lookup func(KeySource) (string, error)
	// ID is the request's id, for the log.
	ID string
	// TraceID is the trace in which the request is recorded, for the log; empty if it is not.
	TraceID string
}
