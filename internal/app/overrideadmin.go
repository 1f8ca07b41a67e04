package app

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxNote and maxOverriddenKey bound the texts of one override, in bytes. Its limits are bounded by policy.MaxLimits.
	maxNote, maxOverriddenKey = 256, 1024
)

// clientBucket is the key of the buckets of a client under the policy's key, given as a permit holds it; "" if there is none.
func clientBucket(p *policy.Policy, client string, noKey bool) clientkey.BucketKey {
	own := p.EffectiveKey()
	if noKey {
		return clientkey.NewBucketKey(p.Name, clientkey.Source{}, client)
	}
	values, ok := clientkey.SplitListValue(client, len(own))
	if !ok {
		return ""
	}
	parts := make([]clientkey.Part, len(own))
	for i := range own {
		parts[i] = clientkey.ListedPart(own[i], values[i])
	}
	return clientkey.NewListBucketKey(p.Name, parts)
}

// overridden is the client of an override at run time.
type overridden struct {
	policy *policy.Policy
	parts  []clientkey.Part
	key    clientkey.BucketKey
	client string
}

// overriddenClient finds the client that id names. Beside an error, client is a text in place of a key that may be a secret, or "".
func (r *RateLimiter) overriddenClient(id ports.ClientID) (overridden, error) {
	if r.overrides == nil {
		return overridden{}, noOverrides(id.Policy)
	}
	p, err := r.policyOrShared(id.Policy)
	if err != nil {
		return overridden{}, err
	}
	key, address := p.EffectiveKey(), clientkey.Key{{Kind: clientkey.SourceIP}}
	wrong := overridden{policy: p}
	if i := slices.IndexFunc(key, clientkey.Source.Secret); i >= 0 {
		wrong.client = clientkey.NewPart(key[i], id.Key).Value
	}
	if len(id.Key) > maxOverriddenKey {
		return wrong, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key", Value: strconv.Itoa(len(id.Key)) + " bytes",
			Reason: "must have at most " + strconv.Itoa(maxOverriddenKey),
		}
	}
	if id.Source != "" {
		named, err := clientkey.Parse(id.Source)
		switch {
		case err == nil && named.Equal(key):
		case err == nil && named.Equal(address) && optional(key):
			key = address
		default:
			return wrong, &domain.FieldError{
				Kind: domain.ErrInvalidRequest, Field: "source", Value: strconv.Quote(id.Source),
				Reason: "must be the policy's key, " + key.String() + ", or ip for a client that has no value for a key of one header, cookie or parameter",
			}
		}
	}
	parts, err := partsOf(p, key, id.Key)
	if err != nil {
		return wrong, err
	}
	return overridden{p, parts, clientkey.NewListBucketKey(p.Name, parts), clientkey.ListValue(parts)}, nil
}

// check refuses a key that JSON cannot list, and texts in place of addresses that no client has. A caller of the decision API may give
// any other text as the key of a policy by address.
func (c *overridden) check() error {
	if !utf8.ValidString(c.client) {
		return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Value: strconv.Quote(c.client), Reason: "must be UTF-8"}
	}
	for _, part := range c.parts {
		if part.Source.IsAddress() && !part.Source.ValidAddress(part.Value) && likeAddress(part.Value) {
			return notAddress(c.policy, part.Value)
		}
	}
	return nil
}

// likeAddress reports whether a text seems to be meant as an address, or as several.
func likeAddress(value string) bool {
	return strings.ContainsAny(value, ".:/*") && strings.Trim(value, "0123456789abcdefABCDEF.:/*") == ""
}

func noOverrides(policyName string) error {
	return &domain.FieldError{
		Kind: domain.ErrInvalidRequest, Field: "policy", Value: strconv.Quote(policyName), Reason: "there are no overrides at run time here",
	}
}

// Override implements ports.Overrides. It reads this process's copy, also while the store fails.
func (r *RateLimiter) Override(_ context.Context, id ports.ClientID) (ports.Override, error) {
	c, err := r.overriddenClient(id)
	if err == nil {
		if e, _ := r.table.Get(c.key); e.Key != "" && e.InForce(domain.InstantOf(r.now())) {
			return r.shownUnder(c.policy, &e), nil
		}
		err = ports.ErrNoOverride
		if !r.overrides.OverridesStatus().Known {
			err = errUnknownOverrides
		}
	}
	if old := r.underOldKey(id.Policy, &c, id.Key, err); old != "" {
		e, _ := r.table.Get(old)
		return r.shownUnderOldKey(&c, &e), nil
	}
	return ports.Override{}, err
}

var errUnknownOverrides = fmt.Errorf("%w: the overrides are not known yet", ports.ErrUnavailable)

// SetOverride implements ports.Overrides. Beside an error, after has the Key of the client if that may be a secret, as it may be shown.
func (r *RateLimiter) SetOverride(
	ctx context.Context, id ports.ClientID, o ports.Override,
) (before *ports.Override, after ports.Override, err error) {
	c, err := r.overriddenClient(id)
	if err == nil {
		err = errors.Join(c.check(), r.checkOverride(c.policy, &o))
	}
	if err != nil {
		return nil, ports.Override{Key: c.client}, err
	}
	effect := override.Effect{Limits: o.Limits, Exempt: o.Exempt, Block: o.Block}
	value := override.Value{Effect: effect.Text(), Client: c.client, Note: o.Note}
	if !o.ExpiresAt.IsZero() {
		value.ExpiresAt = domain.InstantOf(o.ExpiresAt)
	}
	was, is, err := r.overrides.ChangeOverride(ctx, c.key, &value)
	if err != nil {
		return nil, ports.Override{Key: c.client}, err
	}
	if was.Key != "" && was.InForce(is.Version) {
		shown := r.shownUnder(c.policy, &was)
		before = &shown
	}
	return before, r.shownUnder(c.policy, &is), nil
}

// checkOverride returns a domain.FieldError for each thing that is wrong.
func (r *RateLimiter) checkOverride(p *policy.Policy, o *ports.Override) error {
	var errs []error
	bad := func(field, value, reason string) {
		errs = append(errs, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: field, Value: value, Reason: reason})
	}
	shared := strings.HasPrefix(p.Name, policy.SharedPrefix)
	switch {
	case o.Exempt && o.Block:
		bad("block", "", "a client is either exempt or blocked")
	case (o.Exempt || o.Block) && len(o.Limits) > 0:
		bad("limits", "", "a client that is exempt or blocked has no limits")
	case (o.Exempt || o.Block) && shared:
		bad("policy", strconv.Quote(p.Name), override.SharedOnlyLimits)
	case !o.Exempt && !o.Block && len(o.Limits) == 0:
		bad("limits", "", "there must be limits, or exempt, or block")
	case len(o.Limits) > policy.MaxLimits:
		bad("limits", strconv.Itoa(len(o.Limits)), "there must be at most "+strconv.Itoa(policy.MaxLimits)+" of them")
	default:
		effect := override.Effect{Limits: o.Limits}
		_, err := effect.LimitsUnder(p)
		for _, wrong := range domain.FieldErrors(err) {
			bad(wrong.Field, wrong.Value, wrong.Reason)
		}
	}
	if len(o.Note) > maxNote || !utf8.ValidString(o.Note) {
		bad("note", "", "must be UTF-8 text of at most "+strconv.Itoa(maxNote)+" bytes")
	}
	if !o.ExpiresAt.IsZero() && !o.ExpiresAt.After(r.now()) {
		bad("expires_at", strconv.Quote(o.ExpiresAt.String()), "must be in the future")
	}
	return errors.Join(errs...)
}

// EndOverride implements ports.Overrides. Beside an error, before has the Key of the client as SetOverride returns it.
func (r *RateLimiter) EndOverride(ctx context.Context, id ports.ClientID) (before ports.Override, err error) {
	c, err := r.overriddenClient(id)
	var was override.Entry
	if err == nil {
		was, _, err = r.overrides.ChangeOverride(ctx, c.key, nil)
	}
	if old := r.underOldKey(id.Policy, &c, id.Key, err); old != "" {
		was, _, err = r.overrides.ChangeOverride(ctx, old, nil)
	}
	if err != nil {
		return ports.Override{Key: c.client}, err
	}
	return r.shownUnderOldKey(&c, &was), nil
}

// shownUnderOldKey is shownUnder for an override that may have been set while the policy had another key, which was no secret.
func (r *RateLimiter) shownUnderOldKey(c *overridden, e *override.Entry) ports.Override {
	o := r.shownUnder(c.policy, e)
	o.Key = cmp.Or(c.client, o.Key)
	return o
}

// everyClient is the Key by which the override of a policy with the key global is listed. Its client is "".
const everyClient = "all"

// underOldKey returns the key of an override in force that was set for a client while the policy had another key, or before the policy
// was gone, or "". key is what the operator calls the client, c what overriddenClient made of it, and err why there is no override.
func (r *RateLimiter) underOldKey(owner string, c *overridden, key string, err error) clientkey.BucketKey {
	const most = 8 // policies change their key rarely
	known := errors.Is(err, ports.ErrNoOverride) || errors.Is(err, domain.ErrInvalidRequest) || errors.Is(err, ports.ErrUnknownPolicy)
	if r.table == nil || !known {
		return ""
	}
	clients := slices.DeleteFunc([]string{key, c.client}, func(client string) bool { return client == "" })
	if key == everyClient {
		clients = append(clients, "")
	}
	for _, client := range clients {
		for _, e := range r.table.Page(owner, client, "", most, domain.InstantOf(r.now())) {
			if e.Client == client && (c.policy == nil || keyChanged(c.policy, &e)) {
				return e.Key
			}
		}
	}
	return ""
}

// keyChanged reports whether an entry is about a client that the policy's key of today cannot have.
func keyChanged(p *policy.Policy, e *override.Entry) bool {
	switch key := clientBucket(p, e.Client, false); {
	case key == e.Key, optional(p.EffectiveKey()) && e.Key == clientBucket(p, e.Client, true):
		return false
	case key == "" && strings.Contains(string(e.Key), "=%sha256-"):
		return false // a hash is in place of a long value, and the client's text cannot be split
	}
	return true
}

var (
	errKeyChanged = errors.New("the policy's key has changed since: this override applies to no client, and can be ended")
	errPolicyGone = errors.New("there is no policy of this name any more: this override applies to no client, and can be ended")
)

// ListOverrides implements ports.Overrides. It reads this process's copy, also while the store fails.
func (r *RateLimiter) ListOverrides(_ context.Context, policyName, after string, limit int) (page []ports.Override, next string, err error) {
	if r.overrides == nil {
		return nil, "", noOverrides(policyName)
	}
	p, err := r.policyOrShared(policyName)
	if err != nil && !r.table.Has(policyName) { // those of a policy that is gone are listed, so that they can be ended
		return nil, "", err
	}
	if limit < 1 {
		return nil, "", &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "limit", Value: strconv.Itoa(limit), Reason: "must be at least 1"}
	}
	if !r.overrides.OverridesStatus().Known {
		return nil, "", errUnknownOverrides
	}
	client, key, err := readCursor(after)
	if err != nil {
		return nil, "", err
	}
	entries := r.table.Page(policyName, client, clientkey.BucketKey(key), limit+1, domain.InstantOf(r.now()))
	if len(entries) > limit {
		entries = entries[:limit]
		next = cursorOf(&entries[limit-1])
	}
	for i := range entries {
		page = append(page, r.shownUnder(p, &entries[i]))
	}
	return page, next, nil
}

// cursorSeparator is in no bucket key, since control characters are escaped there.
const cursorSeparator = "\n"

// cursorOf returns the cursor of the page after an entry. It is text, whatever bytes the client's key has.
func cursorOf(e *override.Entry) string {
	return base64.RawURLEncoding.EncodeToString([]byte(e.Client + cursorSeparator + string(e.Key)))
}

// readCursor is the inverse of cursorOf. The cursor "" stands before the first entry.
func readCursor(cursor string) (client, key string, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	at := strings.LastIndex(string(raw), cursorSeparator)
	switch {
	case cursor == "":
		return "", "", nil
	case err != nil || at < 0:
		return "", "", &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "after", Reason: "must be the next of the page before, or left out",
		}
	}
	return string(raw[:at]), string(raw[at+len(cursorSeparator):]), nil
}

// OverridesStatus implements ports.Overrides.
func (r *RateLimiter) OverridesStatus() ports.OverridesStatus {
	if r.overrides == nil {
		return ports.OverridesStatus{Known: true, Local: true}
	}
	return r.overrides.OverridesStatus()
}

// Overridden implements ports.Overrides.
func (r *RateLimiter) Overridden() []string {
	if r.table == nil {
		return nil
	}
	return slices.Sorted(slices.Values(r.table.Owners()))
}

// shownUnder returns an entry that is in force as operators see it. p is nil for a policy that is gone.
func (r *RateLimiter) shownUnder(p *policy.Policy, e *override.Entry) ports.Override {
	o := ports.Override{Key: cmp.Or(e.Client, everyClient), Note: e.Note, SetAt: e.Version.Time()}
	if e.ExpiresAt != 0 {
		o.ExpiresAt = e.ExpiresAt.Time()
	}
	effect, err := override.ParseEffect(e.Effect)
	o.Limits, o.Exempt, o.Block = effect.Limits, effect.Exempt, effect.Block
	if p == nil {
		o.Unfit = errPolicyGone
		return o
	}
	own := p.EffectiveKey()
	address := clientkey.NewBucketKey(p.Name, clientkey.Source{}, e.Client)
	if own[0].Kind != clientkey.SourceIP && len(own) == 1 && e.Key == address {
		o.Source = clientkey.Source{}.String()
	}
	if err != nil {
		o.Unfit = err
		return o
	}
	if _, o.Unfit = effect.LimitsUnder(p); keyChanged(p, e) {
		o.Unfit = errKeyChanged
	}
	return o
}
