package domain

import "net/netip"

// Request asks for one decision. It is read only until the decision is made, and its strings are kept no longer,
// except for Client in the [Decision], which is a copy.
type Request struct {
	// Op is the operation; the zero value takes.
	Op Op
	// Cost in tokens; see [Op.CheckCost]. There is no default: 0 peeks.
	Cost Tokens
	// Policy asks for a policy by name. Empty: the first policy that matches.
	Policy string
	// Method, Host and Path are what a policy matches. Path is in its normal form.
	Method, Host, Path string
	// Key is the value of the policy's own key, where the caller knows it. Empty: Lookup is asked.
	Key string
	// Client is the address of the client; the zero Addr if it is not known.
	Client netip.Addr
	// Lookup returns the value of a key's source, other than the address; "" if the request has none. The value need
	// not outlive the call. An error is returned to the caller as it is. Nil: the request has no values.
	Lookup func(KeySource) (string, error)
	// ID is the request's id, for the log.
	ID string
}
