package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Compile validates the policy and computes its bucket groups and the index of its patterns. It returns every violation
// at once, as [Policy.Validate] does. A compiled policy must not be changed.
func (p *Policy) Compile() error {
	if err := p.Validate(); err != nil {
		return err
	}
	p.compile()
	return nil
}

// compile is [Policy.Compile] for a policy that is valid.
func (p *Policy) compile() {
	groups := p.makeGroups()
	c := &compiled{rules: Rules{Override: -1, Groups: groups}}
	c.ranked = append(c.ranked, Rules{Blocked: true, Override: -1}, Rules{Exempt: true, Override: -1}) // rankBlock and rankExempt
	lists := make([][]string, firstOverride, firstOverride+len(p.Overrides))
	lists[rankBlock], lists[rankExempt] = p.Block, p.Exempt
	for i := range p.Overrides {
		lists = append(lists, p.Overrides[i].Keys)
		if when := p.Overrides[i].When; len(when) > 0 {
			c.conditions.add(int32(i)+firstOverride, nil, when)
		}
		c.ranked = append(c.ranked, Rules{Override: i, Groups: groupsWith(groups, p.Overrides[i].Limits)})
	}
	c.patterns = newPatternIndex(lists, p.EffectiveKey())
	c.listed = listedRanks(lists, p.EffectiveKey())
	c.needsPolicyKey = c.patterns.nonEmpty || slices.ContainsFunc(groups, func(g Group) bool { return g.ByPolicyKey })
	c.hasConcurrency = p.ConcurrencyLimit() != ""
	if c.hasConcurrency || len(p.Shared) > 0 || strings.HasPrefix(p.Name, SharedPrefix) {
		c.overrideIDs = p.overrideIDs()
	}
	p.compiled = c
}

// overrideIDs returns the ID of each override; see [Policy.OverrideID]. It is nil if no override needs one.
func (p *Policy) overrideIDs() []string {
	key, needed := p.EffectiveKey(), false
	secret := key.Secret()
	ids := make([]string, len(p.Overrides))
	for i := range p.Overrides {
		if o := &p.Overrides[i]; secret || len(o.When) > 0 {
			ids[i], needed = o.id(key), true
		}
	}
	if !needed {
		return nil
	}
	return ids
}

// listedRanks returns the ranks of the patterns without a *, by the clients that they are for as these are listed; nil if the key
// is not secret.
func listedRanks(lists [][]string, key clientkey.Key) map[string]int32 {
	if !key.Secret() {
		return nil
	}
	ranks := map[string]int32{}
	for i, list := range lists {
		for _, pattern := range list {
			if client, ok := key.ListedValue(pattern); ok && !strings.Contains(pattern, "*") {
				keepLowest(ranks, client, int32(i))
			}
		}
	}
	return ranks
}

// KeyOf returns the key by which a limit counts, given by its name.
func (p *Policy) KeyOf(limit string) clientkey.Key {
	if s := p.Shared[limit]; s != nil {
		return s.own.EffectiveKey()
	}
	if key, own := p.LimitKeys[limit]; own {
		return clientkey.Key(key.Sources())
	}
	return p.EffectiveKey()
}

// KeysOrWhen is why an override is refused that has both keys and conditions, or neither.
const KeysOrWhen = "must have either keys or when"

// OwnKeyNotOverridden is why an override is refused that names a limit with a key of its own.
const OwnKeyNotOverridden = "has a key of its own, and counts requests of clients without this override in the same buckets: each would cut what " +
	"the others have left. Leave it out here; a limit in shared has overrides by its own key"

// HasOwnKey reports whether the limit of this name is the policy's own, and counts by another key than the policy's.
func (p *Policy) HasOwnKey(limit string) bool {
	key, own := p.LimitKeys[limit]
	return own && !key.Equal(p.EffectiveKey())
}

// makeGroups groups the limits by their keys; a shared limit is a group of its own.
func (p *Policy) makeGroups() []Group {
	own := p.EffectiveKey()
	var groups []Group
	for i := range p.Limits {
		key := p.KeyOf(p.Limits[i].Name())
		if s := p.Shared[p.Limits[i].Name()]; s != nil {
			alone := s.own.Groups()[0]
			groups = append(groups, Group{&GroupKey{Owner: alone.Owner, Key: key, Positions: []int{i}, Shared: s}, alone.Limits})
			continue
		}
		at := slices.IndexFunc(groups, func(g Group) bool { return g.Shared == nil && g.Key.Equal(key) })
		if at < 0 {
			at = len(groups)
			groups = append(groups, Group{&GroupKey{Owner: p.Name, Key: key, ByPolicyKey: key.Equal(own)}, nil})
			if len(key) == 1 && key[0].Kind == clientkey.SourceGlobal {
				groups[at].FixedKey = clientkey.NewBucketKey(p.Name, key[0], "")
			}
		}
		groups[at].Limits = append(groups[at].Limits, p.Limits[i])
		groups[at].Positions = append(groups[at].Positions, i)
	}
	return groups
}

// replaced returns limits, with others in place of those of the same names.
func replaced(limits, others []domain.Limit) []domain.Limit {
	limits = slices.Clone(limits)
	for i := range limits {
		for j := range others {
			if others[j].Name() == limits[i].Name() {
				limits[i] = others[j]
			}
		}
	}
	return limits
}

// Validate returns every violation at once; each is a [domain.FieldError] of [domain.ErrInvalidPolicy] or [domain.ErrInvalidLimit].
func (p *Policy) Validate() error {
	errs := p.Match.check(p.HasSecret())
	bad := func(field, value, reason string) {
		errs = append(errs, invalid(field, value, reason))
	}
	if !domain.ValidName(p.Name) {
		bad("name", strconv.Quote(p.Name), domain.NameRule)
	}
	errs = append(errs, p.checkKeys()...)
	errs = append(errs, p.Cost.check(p.Match.ForEnvoy())...)
	if err := p.checkCapacities(); err != nil {
		errs = append(errs, err)
	}
	if n := len(p.Limits); n < 1 || n > MaxLimits {
		bad("limits", strconv.Itoa(n), "there must be from 1 to "+strconv.Itoa(MaxLimits)+" of them")
	}
	errs = append(errs, checkLimits("limits", p.Limits)...)
	errs = append(errs, p.checkShared()...)
	errs = append(errs, p.checkPatterns()...)
	if p.Mode > ModeShadow {
		bad("mode", strconv.Itoa(int(p.Mode)), modeRule)
	}
	errs = append(errs, p.checkKinds()...)
	errs = append(errs, p.checkAnswers()...)
	if err := p.checkMissingKey(); err != nil {
		errs = append(errs, err)
	}
	if !p.OnStoreFailure.Valid() {
		bad("on_store_failure", strconv.Quote(string(p.OnStoreFailure)), "must be open, closed or local")
	}
	return errors.Join(errs...)
}

// checkKinds checks what needs limits of one kind, or cannot have them.
func (p *Policy) checkKinds() (errs []error) {
	isBucket := func(l domain.Limit) bool { return l.Kind() == domain.KindTokenBucket }
	if p.MaxWait < 0 || p.MaxWait > MaxMaxWait {
		errs = append(errs, invalid("max_wait", p.MaxWait.String(), maxWaitRule))
	} else if p.MaxWait > 0 && !slices.ContainsFunc(p.Limits, isBucket) {
		errs = append(errs, invalid("max_wait", domain.FormatDuration(p.MaxWait), "needs a limit with a rate: requests wait for the tokens of a rate, and not for a permit or a quota's next period"))
	}
	if name := p.ConcurrencyLimit(); name != "" && p.Match.ForEnvoy() {
		errs = append(errs, invalid("match.domain", strconv.Quote(p.Match.Domain),
			"a policy for Envoy cannot have the concurrency limit "+name+": Envoy does not say when a request ends"))
	}
	return errs
}

// ConcurrencyLimit returns the name of the policy's first limit that is of [domain.KindConcurrency], for any client; "" if none is.
func (p *Policy) ConcurrencyLimit() string {
	for i := range p.Limits {
		name := p.Limits[i].Name()
		if s := p.Shared[name]; s != nil && s.own.ConcurrencyLimit() != "" || p.Limits[i].Kind() == domain.KindConcurrency {
			return name
		}
	}
	for i := range p.Overrides {
		for j := range p.Overrides[i].Limits {
			if l := &p.Overrides[i].Limits[j]; l.Kind() == domain.KindConcurrency {
				return l.Name()
			}
		}
	}
	return ""
}

// checkCapacities refuses a constant cost, or one in an estimate, that a limit could never pay.
func (p *Policy) checkCapacities() error {
	cost, field := p.Cost.Tokens(), "cost"
	if n := len(p.Cost.Estimate); n > 0 {
		field = "cost.estimate[" + strconv.Itoa(n-1) + "]"
	}
	if cost > domain.MaxCost {
		return nil // which is refused anyway
	}
	check := func(limits []domain.Limit, clients string) error {
		for i := range limits {
			if l := &limits[i]; !l.IsZero() && l.CostOf(cost) > l.Capacity() {
				return invalid(field, number(cost), fmt.Sprintf(
					"must be at most %d, the capacity of the limit %s%s: a request that costs more never passes", l.Capacity(), l.Name(), clients))
			}
		}
		return nil
	}
	checkAll := func(p *Policy) error {
		for i := range p.Overrides {
			if o := &p.Overrides[i]; len(o.Keys)+len(o.When) > 0 {
				if err := check(o.Limits, " "+p.clientsOf(i)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := cmp.Or(check(p.Limits, ""), checkAll(p))
	for _, name := range slices.Sorted(maps.Keys(p.Shared)) {
		err = cmp.Or(err, checkAll(&p.Shared[name].own))
	}
	return err
}

// clientsOf is [Override.Clients] of an override, given by its index. Under a secret key it says where the override is instead.
func (p *Policy) clientsOf(override int) string {
	o := &p.Overrides[override]
	switch {
	case !p.EffectiveKey().Secret():
		return o.Clients()
	case o.Line > 0:
		return "of the override on line " + strconv.Itoa(o.Line)
	}
	return "of overrides[" + strconv.Itoa(override) + "]"
}

func checkLimits(field string, limits []domain.Limit) (errs []error) {
	seen := make(map[string]bool, len(limits))
	for i := range limits {
		l := &limits[i]
		if l.IsZero() {
			errs = append(errs, invalid(field, strconv.Itoa(i), "is a zero Limit"))
		} else if seen[l.Name()] {
			errs = append(errs, invalid(field, strconv.Quote(l.Name()), "there are two limits of this name"))
		}
		seen[l.Name()] = true
	}
	return errs
}

// checkKeys checks the key of the policy and the keys of its limits.
func (p *Policy) checkKeys() (errs []error) {
	check := func(field string, key clientkey.Key) {
		err := key.Check()
		if err == nil {
			err = p.Match.checkKey(key)
		}
		if err != nil {
			err.Field = field
			errs = append(errs, err)
		}
	}
	check("key", p.EffectiveKey())
	for name, s := range p.Shared {
		check("limits."+name+".key", s.own.EffectiveKey())
	}
	for name, key := range p.LimitKeys {
		check("limits."+name+".key", key)
		if !p.hasLimit(name) {
			errs = append(errs, invalid("limits", strconv.Quote(name), "has a key, but is not a limit"))
		}
	}
	return append(errs, p.checkSecrets()...)
}

// HasSecret reports whether a value that a key of the policy takes is secret: its own key, or one of its limits'.
func (p *Policy) HasSecret() bool { return p.hasKey(clientkey.Key.Secret) }

// IsSecret reports whether a source is a secret one of such a key.
func (p *Policy) IsSecret(source clientkey.Source) bool {
	return p.hasKey(func(key clientkey.Key) bool {
		return slices.ContainsFunc(key, func(s clientkey.Source) bool { return s.Secret() && s.Same(source) })
	})
}

func (p *Policy) hasKey(is func(clientkey.Key) bool) bool {
	return is(p.EffectiveKey()) ||
		slices.ContainsFunc(p.Limits, func(l domain.Limit) bool { return !l.IsZero() && is(p.KeyOf(l.Name())) })
}

// checkSecrets refuses a source that is secret in one key of the policy, and not in another one: the values would be seen by the
// other one.
func (p *Policy) checkSecrets() (errs []error) {
	known := map[clientkey.Source]bool{}
	check := func(field string, key clientkey.Key) {
		for _, source := range key {
			secret, there := known[source.Public()]
			if !there {
				known[source.Public()] = source.Secret()
			} else if secret != source.Secret() {
				errs = append(errs, invalid(field, strconv.Quote(source.String()), "must be secret in every key of the policy and of its shared limits, or in none"))
			}
		}
	}
	check("key", p.Key)
	for i := range p.Limits {
		name := p.Limits[i].Name()
		if _, own := p.LimitKeys[name]; own || p.Shared[name] != nil {
			check("limits."+name+".key", p.KeyOf(name))
		}
	}
	return errs
}

// checkMissingKey refuses a MissingKey that would have no effect.
func (p *Policy) checkMissingKey() error {
	canMiss := func(s clientkey.Source) bool { return !s.IsAddress() && s.Name != "" }
	switch {
	case p.MissingKey > MissingKeyRefuse:
		return invalid("missing_key", strconv.Itoa(int(p.MissingKey)), missingKeyRule)
	case p.MissingKey == MissingKeyRefuse && !slices.ContainsFunc(p.EffectiveKey(), canMiss):
		return invalid("missing_key", p.MissingKey.String(), "has no effect: every request has the key "+p.EffectiveKey().String())
	}
	return nil
}

// checkKey refuses sources that matching requests cannot have. An Envoy request has a descriptor and no other source;
// an HTTP request has no descriptor. A policy with the zero Match can be used for both.
func (m *Match) checkKey(key clientkey.Key) *domain.FieldError {
	http := m.forHTTP()
	if m.ForEnvoy() && http {
		return nil // Match.check refuses this
	}
	for _, source := range key {
		ofEnvoy := source.Kind == clientkey.SourceDescriptor
		if source.Kind != clientkey.SourceGlobal && (m.ForEnvoy() && !ofEnvoy || http && ofEnvoy) {
			return invalid("key", strconv.Quote(source.String()), "requests that match cannot have it: a policy with a descriptor counts by that or is global")
		}
	}
	return nil
}

func (p *Policy) hasLimit(name string) bool {
	return slices.ContainsFunc(p.Limits, func(l domain.Limit) bool { return l.Name() == name })
}

// checkPatterns checks the patterns of exempt, block and overrides. Those of a secret key are named by their places: errors are logged.
func (p *Policy) checkPatterns() (errs []error) {
	bad := func(field, value, reason string) {
		errs = append(errs, invalid(field, value, reason))
	}
	key := p.EffectiveKey()
	source, addresses := key.AddressSource()
	check := func(field, at string, patterns []string) {
		if len(patterns) > MaxOverrides {
			bad(field, strconv.Itoa(len(patterns)), "there must be at most "+strconv.Itoa(MaxOverrides)+" of them")
		}
		for i, pattern := range patterns {
			var wrong *domain.FieldError
			if !errors.As(CheckPattern(pattern), &wrong) && addresses && strings.Contains(pattern, "/") && !strings.Contains(pattern, "*") {
				wrong = checkNetwork(source, pattern)
			}
			if wrong == nil && key.Secret() && clientkey.LooksListed(pattern) {
				wrong = invalid(field, strconv.Quote(pattern), "must be the value: patterns are compared with it, and not with its HMAC")
			}
			switch {
			case wrong == nil:
			case key.Secret():
				bad(at+"["+strconv.Itoa(i)+"]", "", wrong.Reason)
			default:
				bad(field, wrong.Value, wrong.Reason)
			}
		}
	}
	check("exempt", "exempt", p.Exempt)
	check("block", "block", p.Block)
	if len(p.Overrides) > MaxOverrides {
		bad("overrides", strconv.Itoa(len(p.Overrides)), "there must be at most "+strconv.Itoa(MaxOverrides)+" of them")
	}
	for i := range p.Overrides {
		o := &p.Overrides[i]
		if (len(o.Keys) == 0) == (len(o.When) == 0) {
			bad("overrides", strconv.Itoa(i), KeysOrWhen)
		}
		check("overrides", "overrides["+strconv.Itoa(i)+"].keys", o.Keys)
		errs = append(errs, p.checkWhen(o)...)
		if len(o.Limits) == 0 {
			bad("overrides", strconv.Itoa(i), "has no limits")
		}
		errs = append(errs, checkLimits("overrides", o.Limits)...)
		for j := range o.Limits {
			switch name := o.Limits[j].Name(); {
			case o.Limits[j].IsZero():
			case p.Shared[name] != nil:
				bad("overrides", strconv.Quote(name), SharedNotOverridden)
			case !p.hasLimit(name):
				bad("overrides", strconv.Quote(name), p.NotALimit())
			case p.HasOwnKey(name):
				bad("overrides", strconv.Quote(name), OwnKeyNotOverridden)
			}
		}
	}
	return errs
}
