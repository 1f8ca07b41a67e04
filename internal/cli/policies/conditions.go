package policies

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// printOverride says which override of the file applies, and why; or why none does.
func printOverride(w io.Writer, r *writtenRequest, d *decision.Decision) {
	o, p := d.Override, d.AppliedPolicy
	switch {
	case o != nil && len(o.When) == 0 && p.EffectiveKey().Secret():
		_, _ = fmt.Fprintf(w, "the override on line %d applies: the client matches one of its keys\n", o.Line)
	case o != nil && len(o.When) == 0:
		_, _ = fmt.Fprintf(w, "the override on line %d applies: the client matches %s\n", o.Line, someOf(o.Keys))
	case o != nil:
		var values []string
		for _, c := range o.When {
			value, _, _ := c.Fits(writtenFacts{r}) // it fits
			if value = " is " + value; p.IsSecret(c.Source) {
				value = " has one of the values"
			}
			values = append(values, c.Source.String()+value)
		}
		_, _ = fmt.Fprintf(w, "the override on line %d applies: %s\n", o.Line, strings.Join(values, " and "))
	case len(p.Overrides) > 0:
		const most = 5
		_, _ = fmt.Fprintln(w, "no override applies:")
		for i := range p.Overrides[:min(len(p.Overrides), most)] {
			_, _ = fmt.Fprintf(w, "  line %d: %s\n", p.Overrides[i].Line, unfulfilled(&p.Overrides[i], r, d))
		}
		if more := len(p.Overrides) - most; more > 0 {
			_, _ = fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
}

// unfulfilled says why an override does not apply. It shows no pattern of a secret key.
func unfulfilled(o *policy.Override, r *writtenRequest, d *decision.Decision) string {
	key := d.AppliedPolicy.EffectiveKey()
	switch {
	case len(o.When) > 0:
	case lacksKey(r, key):
		return "the request has no value for the key, " + key.String() + ", so only a * alone would match"
	case key.Secret():
		return "the client matches none of its keys"
	default:
		return "the client does not match " + someOf(o.Keys)
	}
	var reasons []string
	for _, c := range o.When {
		if _, fits, err := c.Fits(writtenFacts{r}); err == nil && !fits {
			reasons = append(reasons, unfulfilledCondition(c, r, d.AppliedPolicy))
		}
	}
	return strings.Join(reasons, ", and ")
}

// lacksKey reports whether the request has no value for the policy's key, or for a part of it.
func lacksKey(r *writtenRequest, key clientkey.Key) bool {
	return slices.ContainsFunc(key, func(s clientkey.Source) bool {
		value, _ := r.Lookup(s)
		return value == "" && !s.IsAddress() && s.Kind != clientkey.SourceGlobal
	})
}

func unfulfilledCondition(c policy.Condition, r *writtenRequest, p *policy.Policy) string {
	name, wanted := c.Source.String(), strings.TrimPrefix(c.String(), c.Source.String()+" is ")
	if p.IsSecret(c.Source) {
		return name + " has none of the values"
	}
	facts := writtenFacts{r}
	value, _ := facts.Value(c.Source)
	switch {
	case c.Source.Kind == clientkey.SourceIP:
		value = facts.Address().String()
	case value == "" && len(facts.Elements(c.Source)) > 0:
		value = someOf(facts.Elements(c.Source))
	case value == "":
		return "the request has no " + name + ", which must be " + wanted
	}
	return name + " is " + command.Printable(value) + ", and must be " + wanted
}

// printBelief says from whom the service believes the headers that overrides ask for.
func printBelief(w io.Writer, p *policy.Policy) {
	if headers := headerConditions(p); len(headers) > 0 {
		_, _ = fmt.Fprintf(w, "\nOverrides by %s need a peer in VELOCITY_TRUSTED_PROXIES. From any other peer the service ignores the header there.\n",
			someOf(headers))
	}
}

// headerConditions returns the headers that overrides of a policy ask for, each once, in their order.
func headerConditions(p *policy.Policy) (names []string) {
	for i := range p.Overrides {
		for _, c := range p.Overrides[i].When {
			if name := c.Source.String(); c.Source.Kind == clientkey.SourceHeader && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// writtenFacts are the facts of a request of the command line, as the service reads one from a trusted proxy.
type writtenFacts struct{ *writtenRequest }

var _ policy.Facts = writtenFacts{}

// Value implements policy.Facts.
func (f writtenFacts) Value(source clientkey.Source) (string, error) { return f.Lookup(source) }

// Elements implements policy.Facts.
func (f writtenFacts) Elements(source clientkey.Source) []string {
	if f.Request.Elements == nil {
		return nil
	}
	return f.Request.Elements(source)
}

// Address implements policy.Facts.
func (f writtenFacts) Address() netip.Addr { return f.Client }

// printConditionHint warns of conditions that may change from request to request of one client.
func printConditionHint(w io.Writer, p *policy.Policy) {
	var sources []string
	key := p.EffectiveKey()
	for i := range p.Overrides {
		for _, c := range p.Overrides[i].When {
			if name := c.Source.String(); !slices.ContainsFunc(key, c.Source.Same) && !slices.Contains(sources, name) {
				sources = append(sources, name)
			}
		}
	}
	if len(sources) == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "warning: %s: %s should follow from the key (%s): a client has one bucket, whatever its conditions, and requests that differ in them cut it: docs/policies.md#conditions\n",
		p.Name, someOf(sources), key)
	if headers := headerConditions(p); len(headers) > 0 {
		_, _ = fmt.Fprintf(w, "warning: %s: %s is believed only from VELOCITY_TRUSTED_PROXIES, which must set or clear it in each request: docs/policies.md#conditions\n",
			p.Name, someOf(headers))
	}
}
