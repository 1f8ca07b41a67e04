package domain

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Compile validates the policy and works out what deciding needs: its bucket groups and the index of its patterns. It
// reports every violation at once, as [Policy.Validate] does. A policy that was compiled must not be changed.
func (p *Policy) Compile() error {
	if err := p.Validate(); err != nil {
		return err
	}
	c := &compiled{groups: p.groupsOf(p.Limits)}
	lists := make([][]string, firstOverride, firstOverride+len(p.Overrides))
	lists[rankBlock], lists[rankExempt] = p.Block, p.Exempt
	for i := range p.Overrides {
		lists = append(lists, p.Overrides[i].Keys)
		c.overrides = append(c.overrides, p.groupsOf(p.overridden(&p.Overrides[i])))
	}
	c.patterns = newPatternIndex(lists, p.OwnKey())
	c.needsOwn = c.patterns.some || slices.ContainsFunc(c.groups, func(g Group) bool { return g.Own })
	p.compiled = c
	return nil
}

// The ranks of a policy's patterns.
const (
	rankBlock = iota
	rankExempt
	firstOverride
)

// OwnKey is the key that limits without one of their own count by. A policy for Envoy that names none counts by the
// descriptor.
func (p *Policy) OwnKey() Key {
	if len(p.Key) == 0 && p.Match.ForEnvoy() {
		return byDescriptor
	}
	return Key(p.Key.Sources())
}

// keyOf returns the key by which a limit counts.
func (p *Policy) keyOf(limit string) Key {
	if key, own := p.LimitKeys[limit]; own {
		return Key(key.Sources())
	}
	return p.OwnKey()
}

// groupsOf sorts limits, which are the policy's or stand for them, by their keys.
func (p *Policy) groupsOf(limits []Limit) []Group {
	own := p.OwnKey()
	var groups []Group
	for i := range limits {
		key := p.keyOf(limits[i].name)
		at := slices.IndexFunc(groups, func(g Group) bool { return g.Key.Equal(key) })
		if at < 0 {
			at = len(groups)
			groups = append(groups, Group{Key: key, Own: key.Equal(own)})
		}
		groups[at].Limits = append(groups[at].Limits, limits[i])
		groups[at].Places = append(groups[at].Places, i)
	}
	return groups
}

// overridden returns the policy's limits with the override's in their places.
func (p *Policy) overridden(o *Override) []Limit {
	limits := slices.Clone(p.Limits)
	for i := range limits {
		for j := range o.Limits {
			if o.Limits[j].name == limits[i].name {
				limits[i] = o.Limits[j]
			}
		}
	}
	return limits
}

// Compiled reports whether the policy is ready for use.
func (p *Policy) Compiled() bool { return p.compiled != nil }

// Groups are the policy's bucket groups, for clients without an override, in the order of their first limits. Nil
// before Compile.
func (p *Policy) Groups() []Group {
	if p.compiled == nil {
		return nil
	}
	return p.compiled.groups
}

// NeedsOwnKey reports whether any limit or pattern looks at the policy's own key. The policy must be compiled.
func (p *Policy) NeedsOwnKey() bool { return p.compiled.needsOwn }

// Rules are what a policy says about one client.
type Rules struct {
	// Blocked and Exempt leave nothing to the limits.
	Blocked, Exempt bool
	// Override is the place of the override that applies; -1 if none does.
	Override int
	// Groups that decide; nil for a client that is blocked or exempt.
	Groups []Group
}

// RulesFor looks a client up, by the value of the policy's own key; see [ListValue]. stoodIn says that the request did
// not have that value, whole or in part, and the address stood in: then the pattern * alone matches. It allocates
// nothing. The policy must be compiled.
func (p *Policy) RulesFor(client string, stoodIn bool) Rules {
	c := p.compiled
	if !c.patterns.some {
		return Rules{Override: -1, Groups: c.groups}
	}
	rank := c.patterns.every
	if !stoodIn {
		rank = c.patterns.find(client)
	}
	switch rank {
	case noRank:
		return Rules{Override: -1, Groups: c.groups}
	case rankBlock:
		return Rules{Blocked: true, Override: -1}
	case rankExempt:
		return Rules{Exempt: true, Override: -1}
	}
	override := int(rank) - firstOverride
	return Rules{Override: override, Groups: c.overrides[override]}
}

// Validate reports every violation at once; each is a [FieldError] of [ErrInvalidPolicy] or [ErrInvalidLimit].
func (p *Policy) Validate() error {
	errs := p.Match.check()
	bad := func(field, value, reason string) {
		errs = append(errs, &FieldError{ErrInvalidPolicy, field, value, reason})
	}
	if !ValidName(p.Name) {
		bad("name", strconv.Quote(p.Name), nameRule)
	}
	errs = append(errs, p.checkKeys()...)
	if p.Cost.Fixed < 0 || p.Cost.Fixed > MaxCost {
		bad("cost", strconv.FormatInt(int64(p.Cost.Fixed), 10), "must be from 1 to "+strconv.FormatInt(int64(MaxCost), 10))
	}
	if header := p.Cost.Header; header != "" && !(KeySource{SourceHeader, header}).valid() {
		bad("cost", strconv.Quote(header), "must be a header's name in lower case, of letters, digits and hyphens")
	}
	if n := len(p.Limits); n < 1 || n > MaxLimits {
		bad("limits", strconv.Itoa(n), "there must be from 1 to "+strconv.Itoa(MaxLimits)+" of them")
	}
	errs = append(errs, checkLimits("limits", p.Limits)...)
	errs = append(errs, p.checkPatterns()...)
	if p.Mode > ModeShadow {
		bad("mode", strconv.Itoa(int(p.Mode)), modeRule)
	}
	if !p.OnStoreFailure.Valid() {
		bad("on_store_failure", strconv.Quote(string(p.OnStoreFailure)), "must be open, closed or local")
	}
	return errors.Join(errs...)
}

func checkLimits(field string, limits []Limit) (errs []error) {
	seen := make(map[string]bool, len(limits))
	for i := range limits {
		l := &limits[i]
		if l.IsZero() {
			errs = append(errs, &FieldError{ErrInvalidPolicy, field, strconv.Itoa(i), "is a zero Limit"})
		} else if seen[l.name] {
			errs = append(errs, &FieldError{ErrInvalidPolicy, field, strconv.Quote(l.name), "there are two limits of this name"})
		}
		seen[l.name] = true
	}
	return errs
}

// checkKeys looks at the policy's own key and those of its limits.
func (p *Policy) checkKeys() (errs []error) {
	check := func(field string, key Key) {
		err := key.check()
		if err == nil {
			err = p.Match.checkKey(key)
		}
		if err != nil {
			err.Field = field
			errs = append(errs, err)
		}
	}
	check("key", p.OwnKey())
	for name, key := range p.LimitKeys {
		check("limits."+name+".key", key)
		if !p.hasLimit(name) {
			errs = append(errs, &FieldError{ErrInvalidPolicy, "limits", strconv.Quote(name), "has a key, but is no limit"})
		}
	}
	return errs
}

// checkKey refuses sources that the requests which match cannot have: an Envoy request has a descriptor and nothing
// else, and no other request has one. A policy that matches by nothing may be brought by a request of either kind.
func (m *Match) checkKey(key Key) *FieldError {
	http := len(m.Methods) > 0 || m.Host != "" || m.Path != ""
	if m.ForEnvoy() && http {
		return nil // that is refused for itself
	}
	for _, source := range key {
		ofEnvoy := source.Kind == SourceDescriptor
		if source.Kind != SourceGlobal && (m.ForEnvoy() && !ofEnvoy || http && ofEnvoy) {
			return &FieldError{
				ErrInvalidPolicy, "key", strconv.Quote(source.String()),
				"requests that match cannot have it: a policy with a descriptor counts by that or is global",
			}
		}
	}
	return nil
}

func (p *Policy) hasLimit(name string) bool {
	return slices.ContainsFunc(p.Limits, func(l Limit) bool { return l.name == name })
}

// checkPatterns looks at the lists of clients.
func (p *Policy) checkPatterns() (errs []error) {
	bad := func(field, value, reason string) {
		errs = append(errs, &FieldError{ErrInvalidPolicy, field, value, reason})
	}
	source, addresses := p.OwnKey().address()
	check := func(field string, patterns []string) {
		if len(patterns) > MaxOverrides {
			bad(field, strconv.Itoa(len(patterns)), "there must be at most "+strconv.Itoa(MaxOverrides)+" of them")
		}
		for _, pattern := range patterns {
			var wrong *FieldError
			if !errors.As(CheckPattern(pattern), &wrong) && addresses && strings.Contains(pattern, "/") && !strings.Contains(pattern, "*") {
				wrong = source.checkNetwork(pattern)
			}
			if wrong != nil {
				bad(field, wrong.Value, wrong.Reason)
			}
		}
	}
	check("exempt", p.Exempt)
	check("block", p.Block)
	if len(p.Overrides) > MaxOverrides {
		bad("overrides", strconv.Itoa(len(p.Overrides)), "there must be at most "+strconv.Itoa(MaxOverrides)+" of them")
	}
	for i := range p.Overrides {
		o := &p.Overrides[i]
		if len(o.Keys) == 0 {
			bad("overrides", strconv.Itoa(i), "has no keys")
		}
		check("overrides", o.Keys)
		if len(o.Limits) == 0 {
			bad("overrides", strconv.Itoa(i), "has no limits")
		}
		errs = append(errs, checkLimits("overrides", o.Limits)...)
		for j := range o.Limits {
			if name := o.Limits[j].name; !o.Limits[j].IsZero() && !p.hasLimit(name) {
				bad("overrides", strconv.Quote(name), "is no limit of this policy")
			}
		}
	}
	return errs
}
