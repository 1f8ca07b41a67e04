package app

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// permit is what a decision took under a policy with a concurrency limit. A caller gets it as a text, see [permit.text].
type permit struct {
	id     string
	policy string
	cost   domain.Tokens
	groups []permitGroup
}

// permitGroup is one bucket group of the decision.
type permitGroup struct {
	key    clientkey.BucketKey
	limits []domain.Limit
	taken  domain.Instant // by the clock of the group's store
	place  place
	holds  bool // a limit of the group is a concurrency limit
}

// place says where a group was taken.
type place uint8

const (
	inStore place = iota
	inLocal       // in the store of this process
	nowhere       // the store failed, and the failure mode let the request pass
	inOther       // in the store of another process; never in a text
)

// permitText is the form in which a permit is written. It names limits, and what is needed to find today's: the client by the
// policy's key and, if the group is a shared limit, by that one's.
type permitText struct {
	Policy string `json:"p"`
	Client string `json:"u,omitempty"` // as it is listed; see permitClient
	NoKey  bool   `json:"f,omitempty"` // the client had no value for the key, see policy.Policy.RulesFor
	// Override is the policy.Policy.OverrideID of the override that applied. The text holds neither the values that its conditions
	// are about, nor the value of a secret key.
	Override string        `json:"o,omitempty"`
	Cost     domain.Tokens `json:"c"`
	Node     string        `json:"n,omitempty"` // the process that holds what is inLocal
	Groups   []groupText   `json:"g"`
}

type groupText struct {
	Key    clientkey.BucketKey `json:"k"`
	Limits []string            `json:"l"`
	Taken  domain.Instant      `json:"t,omitempty"`
	Place  place               `json:"w,omitempty"`
	// Of a shared limit, as in permitText:
	Client   string `json:"u,omitempty"`
	NoKey    bool   `json:"f,omitempty"`
	Override string `json:"o,omitempty"`
}

const (
	// maxPermitText is the length of the longest text that is read as a permit. None that is granted is longer, since its keys and
	// clients are at most maxPermitKeys together: JSON and base64 make 8 bytes of one at most, and the rest is below 16 KiB.
	maxPermitText = 128 << 10
	maxPermitKeys = 12 << 10
	// maxPermitClient is the length of the longest client in a text. A longer one is the only value of its key, which has a hash of it.
	maxPermitClient = 4 << 10
)

// permitClient is a client as a text has it: "" if it is too long.
func permitClient(client string) string {
	if len(client) > maxPermitClient {
		return ""
	}
	return client
}

// permitFits refuses a request whose permit would have too long a text.
func permitFits(q *resolved, takes []ports.TakeRequest) error {
	n := len(permitClient(q.answer.Decision.Client))
	for i := range takes {
		n += len(takes[i].Key)
	}
	for i := range q.groupClients {
		n += len(q.groupClients[i].name)
	}
	if n > maxPermitKeys {
		return &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "key",
			Reason: fmt.Sprintf("makes, with the keys of the other limits, too long a permit: %d bytes, at most %d", n, maxPermitKeys),
		}
	}
	return nil
}

// String writes the permit as a caller gets it: its ID, a dot, and the rest as JSON in base64.
func (t *permitText) String(id string) string {
	data, err := json.Marshal(t)
	if err != nil {
		panic("app: a permit has no JSON: " + err.Error()) // it holds strings and numbers only
	}
	b := make([]byte, 0, len(id)+1+base64.RawURLEncoding.EncodedLen(len(data)))
	return string(base64.RawURLEncoding.AppendEncode(append(append(b, id...), '.'), data))
}

// idOf returns the ID that a permit's text begins with, or "".
func idOf(text string) string { return text[:max(strings.LastIndexByte(text, '.'), 0)] }

func brokenPermit(reason string) error {
	return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "permit", Reason: reason}
}

// parsePermitText reads what [permitText.String] wrote.
func parsePermitText(text string) (id string, t permitText, err error) {
	if text == "" {
		return "", t, brokenPermit("must not be empty")
	}
	if len(text) > maxPermitText {
		return "", t, brokenPermit(fmt.Sprintf("is longer than any permit: %d bytes, at most %d", len(text), maxPermitText))
	}
	id = idOf(text)
	data, err := base64.RawURLEncoding.DecodeString(text[min(len(id)+1, len(text)):])
	if err != nil || !domain.ValidPermitID(id) || json.Unmarshal(data, &t) != nil || !t.valid() {
		return "", permitText{}, brokenPermit("is not a permit as a decision returned it")
	}
	return id, t, nil
}

func (t *permitText) valid() bool {
	if t.Cost < 1 || t.Cost > domain.MaxCost || len(t.Groups) == 0 || len(t.Groups) > policy.MaxLimits {
		return false
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		if g.Key == "" || strings.ContainsAny(string(g.Key), "{}") || g.Taken < 0 || g.Place > nowhere || len(g.Limits) > policy.MaxLimits {
			return false
		}
		for k, name := range g.Limits {
			if slices.Contains(g.Limits[:k], name) {
				return false
			}
		}
	}
	return true
}

// parsePermit reads a permit's text. Its limits are those that have these names today; a group without any is left out.
func (r *RateLimiter) parsePermit(text string) (permit, error) {
	id, t, err := parsePermitText(text)
	if err != nil {
		return permit{}, err
	}
	p := permit{id: id, policy: t.Policy, cost: t.Cost}
	rules, err := r.named(t.Policy)
	if errors.Is(err, ports.ErrUnknownPolicy) {
		return p, nil // no policy counts by its limits any more
	}
	if err != nil {
		return permit{}, err
	}
	groups := r.groupsOfPermit(rules, &t)
	for i := range t.Groups {
		g := &t.Groups[i]
		place := g.Place
		if place == inLocal && t.Node != r.node {
			place = inOther
		}
		limits, holds := r.limitsOf(g, groups)
		if len(limits) > 0 {
			p.groups = append(p.groups, permitGroup{g.Key, limits, g.Taken, place, holds})
		}
	}
	return p, nil
}

// groupsOfPermit returns the limits that the client of a permit has today.
func (r *RateLimiter) groupsOfPermit(p *policy.Policy, t *permitText) []policy.Group {
	keys := []clientkey.BucketKey{clientBucket(p, t.Client, t.NoKey)}
	if keys[0] == "" || t.Client == "" { // a long value is not in the text, or as a hash; one of the keys is the client's
		keys = append(keys, t.keysOf(p.Name)...)
	}
	for _, key := range keys {
		if o := r.overrideRules(p, key); o != nil && o.Groups != nil {
			return o.Groups
		}
	}
	rules := p.RulesByOverride(t.Override)
	if rules == nil {
		rules = p.RulesForListed(t.Client, t.NoKey)
	}
	return groupsOf(p, rules)
}

// keysOf returns the keys of the groups that an owner has.
func (t *permitText) keysOf(owner string) (keys []clientkey.BucketKey) {
	for i := range t.Groups {
		if of, _, _ := strings.Cut(string(t.Groups[i].Key), ":"); of == owner {
			keys = append(keys, t.Groups[i].Key)
		}
	}
	return keys
}

// limitsOf returns those of the limits that the text names, and whether one is a concurrency limit.
func (r *RateLimiter) limitsOf(g *groupText, groups []policy.Group) (limits []domain.Limit, holds bool) {
	owner, _, _ := strings.Cut(string(g.Key), ":")
	for i := range groups {
		if groups[i].Owner != owner {
			continue
		}
		for _, l := range r.limitsForListed(&groups[i], g) {
			if slices.Contains(g.Limits, l.Name()) {
				limits, holds = append(limits, l), holds || l.Kind() == domain.KindConcurrency
			}
		}
	}
	return limits, holds
}

// underToday returns a permit with the limits that have its limits' names and kinds today. Those that are no more stay as they were, so that
// the permit ends where it was taken. So do those that have a cost of their own only then, or only today: they took another cost.
func (r *RateLimiter) underToday(p permit, t *permitText) *permit {
	rules, err := r.named(p.policy)
	if err != nil {
		return &p
	}
	groups := r.groupsOfPermit(rules, t)
	p.groups = slices.Clone(p.groups)
	for i := range p.groups {
		g := &p.groups[i]
		today, _ := r.limitsOf(&t.Groups[i], groups)
		g.limits = slices.Clone(g.limits)
		for k := range g.limits {
			was := &g.limits[k]
			same := func(l domain.Limit) bool {
				return l.Name() == was.Name() && l.Kind() == was.Kind() && (l.Cost() == 0) == (was.Cost() == 0)
			}
			if at := slices.IndexFunc(today, same); at >= 0 {
				g.limits[k] = today[at]
			}
		}
	}
	return &p
}

// hasConcurrency reports whether one of the limits is a concurrency limit, and the shortest lease of those.
func hasConcurrency(limits []domain.Limit) (has bool, lease time.Duration) {
	for i := range limits {
		if limits[i].Kind() == domain.KindConcurrency {
			if own := limits[i].Concurrency().Lease(); !has || own < lease {
				lease = own
			}
			has = true
		}
	}
	return has, lease
}

// lease is the shortest of the permit's limits.
func (p *permit) lease() (shortest time.Duration) {
	for i := range p.groups {
		if has, lease := hasConcurrency(p.groups[i].limits); has && (shortest == 0 || lease < shortest) {
			shortest = lease
		}
	}
	return shortest
}

var randomText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newRandom returns 16 letters and digits that no one can guess.
func newRandom() string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // it never fails
	return randomText.EncodeToString(random[:])
}
