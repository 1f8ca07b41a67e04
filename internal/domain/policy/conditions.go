package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Condition asks for one value of a request: of a header, of a claim, or the client's address. It fits if that is one of Values,
// compared as a whole and with its case. An address fits if one of the networks contains it. A claim that is an array fits if
// one of its elements does. A request without the value fits no condition.
type Condition struct {
	// Source is of the kind SourceHeader, SourceClaim or SourceIP. The address is the whole one: it is not cut as that of a key is.
	Source clientkey.Source
	// Values are the values that fit, at least one. Those of an address are networks and single addresses.
	Values []string
}

// Bounds of conditions.
const (
	// MaxConditions is the most conditions that one override, or one match, can have.
	MaxConditions = 16
	// MaxConditionValues is the most values that one condition can have.
	MaxConditionValues = 10_000
)

// Facts are what conditions ask of a request. An implementation says what is believed.
type Facts interface {
	// Value returns the value of a header or of a claim, or "" if the request has none.
	Value(source clientkey.Source) (string, error)
	// Elements returns the texts of a claim that is an array, for which Value returns "".
	Elements(source clientkey.Source) []string
	// Address returns the address of the client. The zero Addr means that it is not known.
	Address() netip.Addr
}

// ParseConditionSource reads the source of an override's condition: "header:NAME", "claim:NAME" or "ip".
func ParseConditionSource(s string) (clientkey.Source, error) {
	source, err := clientkey.ParseSource(s)
	if err != nil || !validConditionSource(source) {
		return clientkey.Source{}, invalid("when", strconv.Quote(s), conditionSourceRule)
	}
	return source, nil
}

const conditionSourceRule = "must be header:NAME, of letters, digits and hyphens, claim:NAME or ip; cookies and queries are what a client writes itself"

func validConditionSource(s clientkey.Source) bool {
	switch s.Kind {
	case clientkey.SourceHeader, clientkey.SourceClaim, clientkey.SourceIP:
		return s.Valid()
	default:
		return false
	}
}

// CheckConditionValue returns an error unless s is a value that a condition of this source can have.
func CheckConditionValue(source clientkey.Source, s string) error {
	bad := func(reason string) error { return invalid("when", strconv.Quote(s), reason) }
	if source.Kind == clientkey.SourceIP {
		if _, reason := parseAddresses(s); reason != "" {
			return bad(reason)
		}
		return nil
	}
	switch {
	case s == "" || !plain(s, maxPattern):
		return bad("must have from 1 to 256 bytes, without control characters")
	case strings.Contains(s, "*"):
		return bad("must be a whole value: a * does not stand for any text here")
	case source.Kind == clientkey.SourceHeader && strings.Trim(s, " ") != s:
		return bad("has a space at its start or end, which no header has")
	}
	return nil
}

// parseAddresses reads a network, or a single address as a network of its own. It returns why s is neither.
func parseAddresses(s string) (network netip.Prefix, reason string) {
	if address, err := netip.ParseAddr(s); err == nil && address.Zone() == "" {
		network = netip.PrefixFrom(address, address.BitLen())
	} else if network, err = netip.ParsePrefix(s); err != nil {
		return network, "must be an address, or a network as in 192.0.2.0/24 or 2001:db8::/48"
	}
	return network, networkFault(network)
}

// checkConditions returns what is wrong with the conditions of one override or one match. field is where they are. The errors show no
// values if these may be secret.
func checkConditions(field string, conditions []Condition, secret bool) (errs []error) {
	bad := func(source clientkey.Source, reason string) {
		errs = append(errs, invalid(field, strconv.Quote(source.String()), reason))
	}
	if n := len(conditions); n > MaxConditions {
		errs = append(errs, invalid(field, strconv.Itoa(n), "there must be at most "+strconv.Itoa(MaxConditions)+" conditions"))
	}
	for i, c := range conditions {
		sameSource := func(earlier Condition) bool { return earlier.Source == c.Source }
		switch n := len(c.Values); {
		case !validConditionSource(c.Source):
			bad(c.Source, conditionSourceRule)
		case slices.ContainsFunc(conditions[:i], sameSource):
			bad(c.Source, "is repeated: one condition can have several values")
		case n < 1 || n > MaxConditionValues:
			bad(c.Source, "must have from 1 to "+strconv.Itoa(MaxConditionValues)+" values")
		}
		for _, value := range c.Values {
			for _, wrong := range domain.FieldErrors(CheckConditionValue(c.Source, value)) {
				if secret {
					wrong.Value = strconv.Quote(c.Source.String())
				}
				errs = append(errs, invalid(field, wrong.Value, wrong.Reason))
			}
		}
	}
	return errs
}

// checkWhen returns what is wrong with the conditions of an override.
func (p *Policy) checkWhen(o *Override) []error {
	errs := checkConditions("overrides", o.When, p.HasSecret())
	reason := ""
	switch {
	case len(o.When) == 0:
	case p.Match.ForEnvoy():
		reason = "a request of Envoy has a descriptor, and neither headers nor claims nor an address: write keys"
	case p.EffectiveKey()[0].Kind == clientkey.SourceGlobal && p.changesBucket(o):
		reason = "under the key global all requests count in the same buckets, and each without these conditions would cut what the others have left: " +
			"the policy needs a key that distinguishes clients"
	}
	if reason != "" {
		errs = append(errs, invalid("overrides", strconv.Quote(o.When[0].Source.String()), reason))
	}
	return errs
}

// changesBucket reports whether an override changes a token bucket, or makes a limit one.
func (p *Policy) changesBucket(o *Override) bool {
	return slices.ContainsFunc(o.Limits, func(l domain.Limit) bool {
		return l.Kind() == domain.KindTokenBucket || slices.ContainsFunc(p.Limits, func(own domain.Limit) bool {
			return own.Name() == l.Name() && own.Kind() == domain.KindTokenBucket
		})
	})
}

// String describes the condition: "header:x-plan is pro or team". It has the first three values at most.
func (c Condition) String() string {
	const most = 3
	text := c.Source.String() + " is " + strings.Join(c.Values[:min(len(c.Values), most)], " or ")
	if more := len(c.Values) - most; more > 0 {
		text += " or " + strconv.Itoa(more) + " more"
	}
	return text
}

// ConditionsText describes conditions that must all fit.
func ConditionsText(conditions []Condition) string {
	texts := make([]string, len(conditions))
	for i := range conditions {
		texts[i] = conditions[i].String()
	}
	return strings.Join(texts, " and ")
}

// id returns a text that only overrides for the same clients have. Under a secret key, only the secret connects it with them.
func (o *Override) id(key clientkey.Key) string {
	hash := sha256.New()
	add := func(texts ...string) {
		for _, text := range texts {
			_, _ = fmt.Fprintf(hash, "%d:%s,", len(text), text) // it never fails
		}
		_, _ = hash.Write([]byte{';'})
	}
	add(o.Keys...)
	for _, c := range o.When {
		add(append([]string{c.Source.String()}, c.Values...)...)
	}
	const length = 16
	id := hex.EncodeToString(hash.Sum(nil))
	if i := slices.IndexFunc(key, clientkey.Source.Secret); i >= 0 {
		id = key[i].Hasher.Hash(id)
		return id[len(id)-length:]
	}
	return id[:length]
}

// Fits reports whether a request fulfils the condition, and the value that did. It explains a result to people;
// [Policy.RulesForRequest] finds overrides.
func (c Condition) Fits(facts Facts) (value string, fits bool, err error) {
	one := newMeasure(c)
	return one.fits(facts)
}

// measure is a condition as it is asked.
type measure struct {
	source   clientkey.Source
	values   map[string]struct{}
	networks []netip.Prefix
}

func newMeasure(c Condition) measure {
	m := measure{source: c.Source}
	if c.Source.Kind == clientkey.SourceIP {
		for _, value := range c.Values {
			network, _ := parseAddresses(value) // Validate has checked it
			m.networks = append(m.networks, network)
		}
		return m
	}
	m.values = make(map[string]struct{}, len(c.Values))
	for _, value := range c.Values {
		m.values[value] = struct{}{}
	}
	return m
}

func (m *measure) fits(facts Facts) (value string, fits bool, err error) {
	if m.source.Kind == clientkey.SourceIP {
		address := plainAddress(facts)
		for _, network := range m.networks {
			if network.Contains(address) {
				return network.String(), true, nil
			}
		}
		return "", false, nil
	}
	if value, err = facts.Value(m.source); err != nil || value != "" {
		_, fits = m.values[value]
		return value, fits && err == nil, err
	}
	for _, element := range facts.Elements(m.source) {
		if _, fits = m.values[element]; fits {
			return element, true, nil
		}
	}
	return "", false, nil
}

// plainAddress is the client's address in the one form in which addresses are compared.
func plainAddress(facts Facts) netip.Addr { return facts.Address().Unmap().WithZone("") }
