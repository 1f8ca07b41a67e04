package policy

import (
	"net/netip"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Request asks for one decision. It must not change until the decision is made. Its strings are not retained after
// that, except for Client in the Decision, which is a copy.
type Request struct {
	// Op is the operation. The zero value is OpTake.
	Op domain.Op
	// Cost in tokens; see [domain.Op.CheckCost]. A take of cost 0 is a peek.
	Cost domain.Tokens
	// PolicyCost says that the policy's [Cost] applies and that the field Cost is ignored. Adapters whose clients do
	// not name a cost set it.
	PolicyCost bool
	// Estimated says that the policy's estimate applies, if it has one, and that the field Cost is ignored then. Callers that may
	// name a cost set it if they have named none.
	Estimated bool
	// Trusted says that a trusted proxy sent the request, or a caller whose word counts. Only then are a cost in a header, and headers
	// in the conditions of overrides, believed.
	Trusted bool
	// TakenAt is when the tokens of a refund, a charge or an undo were taken: Decision.At of that take. 0 means now.
	TakenAt domain.Instant
	// MaxWait is how long the caller lets a take wait; the policy's MaxWait bounds it, too. A decision then says how long to wait
	// before the request may go on.
	MaxWait time.Duration
	// HoldsPermit says that the caller can end a permit: it releases that of the Decision when the request has ended. Without
	// it, a take under a policy with a limit of domain.KindConcurrency is an error.
	HoldsPermit bool
	// Hold says that the caller is in this process, and ends every permit by ports.Permits.End. The decision comes when its
	// Wait is over, and the permit is renewed until its end. It includes HoldsPermit.
	Hold bool
	// Local says that this gives back or settles what the store of this process took while the shared one failed, so that it goes
	// there: Decision.Local of that take.
	Local bool
	// Permit is the ID of the permit that an undo ends.
	Permit string
	// Policy is the name of the policy to use. Empty: the first policy that matches.
	Policy string
	// CallerPolicy is a policy to use instead of one by name or match. It must be compiled. Its name is part of its bucket
	// keys, so it must differ from the names of other policies.
	CallerPolicy *Policy
	// Method, Host and Path are compared with the policies. Path must be in its normal form. HEAD is decided as GET.
	Method, Host, Path string
	// Domain and Descriptor are compared with the policies for Envoy. A request with a Domain matches no other policy.
	Domain     string
	Descriptor []DescriptorEntry
	// Key is the value of the policy's key, if the caller knows it; for several sources as [clientkey.ListValue] writes it.
	// Empty: Lookup finds the value.
	Key string
	// Client is the address of the client. The zero Addr means that it is not known.
	Client netip.Addr
	// Lookup returns the value of a header, a cookie or a query parameter, or "" if the request has none. The value
	// must stay valid until the decision is made. ErrNoValue becomes a FieldError that names the source; any other
	// error is returned to the caller unchanged. Nil: the request has no values.
	Lookup func(clientkey.Source) (string, error)
	// Elements returns the texts of a claim whose value is an array, for which Lookup returns "": an array fits a condition if one
	// of its elements does, and is no key. Nil: no claim is an array.
	Elements func(clientkey.Source) []string
	// Body returns the request's body, if that is at most MaxCostBody long; else nil. It is called, once at most, if the policy's
	// estimate may be there and in no source before. Nil: the request has no body. It reads the body, and may wait for it: the
	// error of a body that cannot be read is that of the decision.
	Body func() ([]byte, error)
	// BeforeWait is called before a request with Hold waits, so that its caller can notice a client that leaves meanwhile. Its error is
	// that of the decision, and nothing waits. Nil: there is nothing to do.
	BeforeWait func() error
	// ID is the request's id. It is logged.
	ID string
	// TraceID is the id of the trace that records the request. It is logged. Empty: the request is not traced.
	TraceID string
}
