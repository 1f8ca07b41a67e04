package app

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Inspect implements ports.Inspector.
func (r *RateLimiter) Inspect(ctx context.Context, id ports.ClientID) (ports.BucketReport, error) {
	found, err := r.identify(id)
	if err != nil {
		return ports.BucketReport{}, err
	}
	found.take.Op = domain.OpList
	result := ports.Take(ctx, r.store, found.take)
	if result.Err != nil {
		return ports.BucketReport{}, result.Err
	}
	report := ports.BucketReport{
		Policy: found.policy.Name, Source: found.source.String(), Key: found.listed(id.Key), Store: result.Store, Now: result.Now,
		Limits: make([]ports.LimitLevel, len(found.take.Limits)), Override: found.override,
	}
	if p := found.policy; found.override == nil && (found.source.Equal(p.EffectiveKey()) || id.Source == "ip") {
		report.Conditions = p.ConditionSources()
	}
	for i, limit := range found.take.Limits {
		report.Limits[i] = ports.LimitLevel{Limit: limit, State: result.States[i], Permits: result.Permits[i]}
	}
	return report, nil
}

// Reset implements ports.Inspector. It resets the bucket in this process's own store too.
func (r *RateLimiter) Reset(ctx context.Context, id ports.ClientID) error {
	found, err := r.identify(id)
	if err != nil {
		return err
	}
	found.take.Op = domain.OpReset
	if result := ports.Take(ctx, r.local, found.take); result.Err != nil {
		return result.Err
	}
	return ports.Take(ctx, r.store, found.take).Err
}

// EndPermits implements ports.Inspector. It ends those in this process's own store, too.
func (r *RateLimiter) EndPermits(ctx context.Context, id ports.ClientID, permit string) (ended int, err error) {
	found, err := r.identify(id)
	if err != nil {
		return 0, err
	}
	_, _, isOurs := domain.ParsePermitID(permit)
	secret := found.policy.HasSecret() // then it may be the rest of a secret key with a slash in it
	if permit != "" && (!domain.ValidPermitID(permit) || secret && !isOurs) {
		wrong := &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "id", Reason: "must be the ID of a permit, as an inspection shows it"}
		if !secret {
			wrong.Value = strconv.Quote(permit)
		}
		return 0, wrong
	}
	group := found.take
	group.Limits = slices.DeleteFunc(group.Limits, func(l domain.Limit) bool { return l.Kind() != domain.KindConcurrency })
	if len(group.Limits) == 0 {
		return 0, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "policy", Value: strconv.Quote(id.Policy),
			Reason: "has no concurrency limit by " + found.source.String() + ", so that no one holds permits",
		}
	}
	for _, store := range []ports.BucketStore{r.local, r.store} {
		n, err := endPermits(ctx, store, group, permit)
		ended += n
		if err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// endPermits ends one permit of a group in one store, or all that are held of it, and returns how many it ended.
func endPermits(ctx context.Context, store ports.BucketStore, group ports.TakeRequest, permit string) (ended int, err error) {
	if permit != "" {
		return releaseAll(ctx, store, group, []string{permit})
	}
	// A list is not always complete. The number held at first bounds the lists, since others may be taking permits meanwhile.
	for left := -1; left != 0; {
		group.Op = domain.OpList
		list := ports.Take(ctx, store, group)
		if list.Err != nil {
			return ended, list.Err
		}
		if left < 0 {
			left = 0
			for i := range group.Limits {
				left += int(group.Limits[i].Concurrency().Held(list.States[i]))
			}
		}
		var ids []string
		for _, permits := range list.Permits {
			for _, p := range permits {
				ids = append(ids, p.ID)
			}
		}
		if len(ids) == 0 {
			break
		}
		left = max(left-len(ids), 0)
		n, err := releaseAll(ctx, store, group, ids) // a permit may be held of several limits; it ends once
		ended += n
		if err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// releaseAll releases permits of one group, charges and refunds nothing, and returns how many of them were held.
func releaseAll(ctx context.Context, store ports.BucketStore, group ports.TakeRequest, ids []string) (ended int, err error) {
	reqs, results := make([]ports.TakeRequest, len(ids)), make([]ports.TakeResult, len(ids))
	for i, id := range ids {
		reqs[i] = group
		reqs[i].Op, reqs[i].Permit = domain.OpRelease, id
	}
	store.TakeMany(ctx, reqs, results)
	for i := range results {
		switch {
		case results[i].Err != nil:
			err = results[i].Err
		case results[i].Verdict == domain.Allowed:
			ended++
		}
	}
	return ended, err
}

// identified is the bucket group of one client.
type identified struct {
	policy *policy.Policy
	source clientkey.Key
	client []clientkey.Part
	take   ports.TakeRequest
	// override is the one at run time that applies to the client; nil if none does.
	override *ports.Override
}

func (r *RateLimiter) identify(id ports.ClientID) (identified, error) {
	p, err := r.inspected(id.Policy)
	if err != nil {
		return identified{}, err
	}
	c, err := clientOf(p, id)
	if err != nil {
		return identified{}, err
	}
	take := ports.TakeRequest{Key: clientkey.NewListBucketKey(p.Name, c.parts)}
	groups, o := r.rulesFor(p, &c, take.Key)
	for i := range groups {
		if groups[i].Key.Equal(c.key) || c.fallback && optional(groups[i].Key) {
			take.Limits = append(take.Limits, groups[i].Limits...)
		}
	}
	return identified{p, c.key, c.parts, take, o}, nil
}

// listed returns the key as the operator wrote it, but for secret values their HMACs.
func (i *identified) listed(key string) string {
	if !i.source.Secret() {
		return key
	}
	return clientkey.ListValue(i.client)
}

// client is one that an operator names.
type client struct {
	key      clientkey.Key
	fallback bool // the key is the address, and the policy has optional keys
	parts    []clientkey.Part
}

// clientOf returns the client that id names under a policy.
func clientOf(p *policy.Policy, id ports.ClientID) (client, error) {
	key, fallback, err := sourceOf(p, id.Source)
	if err != nil {
		return client{}, err
	}
	parts, err := partsOf(p, key, id.Key)
	return client{key, fallback, parts}, err
}

// partsOf returns the parts of a key under a policy, whose values are given as clientkey.ListValue writes them.
func partsOf(p *policy.Policy, key clientkey.Key, text string) ([]clientkey.Part, error) {
	var parts []clientkey.Part
	values, ok := clientkey.SplitListValue(text, len(key))
	switch {
	case key[0].Kind == clientkey.SourceGlobal:
		parts = []clientkey.Part{{Source: key[0]}}
	case !ok:
		return nil, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must have the values of " + key.String() + " with & between",
		}
	case text == "":
		return nil, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"}
	default:
		for i, value := range values {
			if key[i].IsAddress() && inBrackets(value) {
				return nil, &domain.FieldError{
					Kind: domain.ErrInvalidRequest, Field: "key", Value: strconv.Quote(value), Reason: "must be the address without brackets",
				}
			}
			if key[i].Secret() && clientkey.LooksListed(value) && !clientkey.Listed(value) {
				return nil, &domain.FieldError{
					Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must be hmac: and 64 hexadecimal digits in lower case, if it begins with hmac:",
				}
			}
			parts = append(parts, clientkey.ListedPart(key[i], value))
		}
	}
	for _, part := range parts {
		// Callers of the decision API may give any text as a value of the policy's own key. Where a key is secret, it may be that by mistake.
		anyText := slices.ContainsFunc(p.EffectiveKey(), part.Source.Same) && !p.HasSecret()
		if !anyText && part.Source.IsAddress() && !part.Source.ValidAddress(part.Value) {
			return nil, notAddress(p, part.Value)
		}
	}
	return parts, nil
}

// notAddress is the error of a key with another text in place of an address. It does not show a text that may be the secret of another
// key.
func notAddress(p *policy.Policy, value string) error {
	wrong := &domain.FieldError{
		Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must be one address: networks belong in the policy file",
	}
	if !p.HasSecret() {
		wrong.Value = strconv.Quote(value)
	}
	return wrong
}

// rulesFor returns the limits of a client, and the override at run time that applies to it, or nil.
func (r *RateLimiter) rulesFor(p *policy.Policy, c *client, bucket clientkey.BucketKey) (groups []policy.Group, o *ports.Override) {
	own := p.EffectiveKey()
	byPolicyKey := c.key.Equal(own)
	if !byPolicyKey && (!c.fallback || !optional(own)) {
		return ownGroups(p.Groups()), nil // the key of another limit
	}
	atRunTime := r.overrideRules(p, bucket)
	if atRunTime == nil {
		return ownGroups(groupsOf(p, p.RulesForParts(c.parts, !byPolicyKey))), nil
	}
	if e, found := r.table.Get(bucket); found && !e.Ended {
		shown := r.shownUnder(p, &e)
		o = &shown
	}
	return ownGroups(groupsOf(p, &atRunTime.Rules)), o
}

// policyOrShared returns the policy of that name, or what stands for a shared limit: "shared/tenant".
func (r *RateLimiter) policyOrShared(name string) (*policy.Policy, error) {
	limit, isShared := strings.CutPrefix(name, policy.SharedPrefix)
	if !isShared {
		return r.named(name)
	}
	s, err := r.policies.Shared(limit)
	if err != nil {
		return nil, err
	}
	return s.Policy(), nil
}

// ShownKey returns the key of a client as logs may show it: with the HMACs of secret values in their places. It is "" for a client that
// cannot be.
func (r *RateLimiter) ShownKey(id ports.ClientID) string {
	p, err := r.policyOrShared(id.Policy)
	if err != nil {
		return ""
	}
	c, err := clientOf(p, id)
	if err != nil {
		return ""
	}
	return clientkey.ListValue(c.parts)
}

// inspected returns the policy or the shared limit of that name, which must have limits of its own.
func (r *RateLimiter) inspected(name string) (*policy.Policy, error) {
	p, err := r.policyOrShared(name)
	if err == nil && len(ownGroups(p.Groups())) == 0 {
		return nil, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "policy", Value: strconv.Quote(name),
			Reason: "has no limits of its own, only shared ones: name one, as in " + p.Groups()[0].Owner,
		}
	}
	return p, err
}

// ownGroups returns the groups of the limits that no other policy shares.
func ownGroups(groups []policy.Group) []policy.Group {
	return slices.DeleteFunc(slices.Clone(groups), func(g policy.Group) bool { return g.Shared != nil })
}

// inBrackets reports whether value is an address as in a URL. No client has this key, unless a caller gave it.
func inBrackets(value string) bool {
	inner, opened := strings.CutPrefix(value, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	_, err := netip.ParseAddr(inner)
	return opened && closed && err == nil
}

// sourceOf returns the key that a source names: the policy's, one of its limits', or the address. fallback reports that the
// key is the address and that the policy has optional keys: the limits of these then count by the address too.
func sourceOf(p *policy.Policy, source string) (key clientkey.Key, fallback bool, err error) {
	own, address := p.EffectiveKey(), clientkey.Key{{Kind: clientkey.SourceIP}}
	if source == "" {
		groups := ownGroups(p.Groups())
		if len(groups) > 0 && !slices.ContainsFunc(groups, func(g policy.Group) bool { return g.ByPolicyKey }) {
			if own.Secret() {
				return nil, false, &domain.FieldError{
					Kind: domain.ErrInvalidRequest, Field: "source", Reason: "must be said: no limit counts by the policy's key, which is secret",
				}
			}
			return groups[0].Key, false, nil // no limit counts by the policy's key
		}
		return own, false, nil
	}
	named, err := clientkey.Parse(source)
	known, keys := []string{}, []clientkey.Key{}
	for _, group := range ownGroups(p.Groups()) {
		known, keys = append(known, group.Key.String()), append(keys, group.Key)
		fallback = fallback || optional(group.Key)
	}
	if fallback && !slices.Contains(known, address.String()) {
		known, keys = append(known, address.String()), append(keys, address)
	}
	if i := slices.IndexFunc(keys, named.Equal); err == nil && i >= 0 {
		return clientkey.Key(keys[i].Sources()), fallback && named.Equal(address), nil
	}
	reason := "must be one of the policy's keys: " + strings.Join(known, "; ")
	for _, group := range p.Groups() {
		if group.Shared != nil && group.Key.Equal(named) {
			reason += "; the limit that policies share by this key is the policy " + group.Owner
		}
	}
	return nil, false, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "source", Value: strconv.Quote(source), Reason: reason}
}

// optional reports whether a request may lack this key. It is then counted by its client's address.
func optional(key clientkey.Key) bool {
	if len(key) != 1 {
		return false
	}
	switch key[0].Kind {
	case clientkey.SourceHeader, clientkey.SourceCookie, clientkey.SourceQuery, clientkey.SourceClaim:
		return true
	default:
		return false
	}
}
