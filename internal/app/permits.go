package app

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A permit may be held on several shards, one for each bucket group that has a concurrency limit. Releasing it twice changes
// nothing, so a release is sent again until it arrives; it settles the cost under its own key in the same step. The groups
// without a concurrency limit are settled once, by the call that removed the permit from the first group that has one. If the first has
// lost its permit otherwise, they are not settled: a call cannot know that no other call has released the first, and settles them.

// Release implements ports.Permits.
func (r *RateLimiter) Release(ctx context.Context, text string, cost domain.Tokens) (released bool, err error) {
	if cost < ports.Unsettled || cost > domain.MaxCost {
		return false, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: "cost", Value: strconv.FormatInt(int64(cost), 10),
			Reason: "must be from 0 to " + strconv.FormatInt(int64(domain.MaxCost), 10),
		}
	}
	p, err := r.parsePermit(text)
	if err != nil {
		return false, err
	}
	r.keeper.forget(p.id)
	calls := []permitCall{{permit: &p, difference: p.difference(cost)}}
	r.release(ctx, calls)
	return calls[0].held, r.reported(&calls[0])
}

// Renew implements ports.Permits.
func (r *RateLimiter) Renew(ctx context.Context, text string) (lease time.Duration, err error) {
	p, err := r.parsePermit(text)
	if err != nil {
		return 0, err
	}
	calls := []permitCall{{permit: &p}}
	r.askAll(ctx, domain.OpRenew, calls)
	switch {
	case calls[0].err != nil:
		return 0, r.reported(&calls[0])
	case !calls[0].held || p.lease() == 0:
		return 0, ports.ErrPermitEnded
	}
	return p.lease(), nil
}

// reported notifies the observer of a call that the store failed, and returns its error.
func (r *RateLimiter) reported(c *permitCall) error {
	if c.err != nil && !errors.Is(c.err, ports.ErrInvalidTake) && !errors.Is(c.err, context.Canceled) {
		r.observer.StoreFailed(c.permit.policy, "", c.err)
	}
	return c.err
}

// End implements ports.Permits.
func (r *RateLimiter) End(text string, cost domain.Tokens) {
	if text != "" {
		r.keeper.end(idOf(text), cost)
	}
}

// difference is what is to be charged or, if negative, refunded when a permit ends whose request cost so much.
func (p *permit) difference(cost domain.Tokens) domain.Tokens {
	if cost == ports.Unsettled {
		return 0
	}
	return cost - p.cost
}

// permitCall is one permit in a call for several.
type permitCall struct {
	permit     *permit
	difference domain.Tokens // of a release

	// held reports whether a release ended the permit in a group, or a renewal renewed it in every group. first is held, of the
	// first group that was asked. Both mean nothing if err is not nil.
	held, first bool
	renewed     bool // a renewal renewed it in a group or, if err is not nil, may have
	err         error
}

// release ends permits, and settles their costs.
func (r *RateLimiter) release(ctx context.Context, calls []permitCall) {
	r.askAll(ctx, domain.OpRelease, calls)
	var rest permitBatch
	for j := range calls {
		c := &calls[j]
		if !c.first || c.difference == 0 {
			continue
		}
		for i := range c.permit.groups {
			g := &c.permit.groups[i]
			if g.holds {
				continue
			}
			rest.add(g.place, j, ports.TakeRequest{
				Op: domain.OpSettle, Key: g.key, Limits: g.limits, Cost: c.difference, TakenAt: g.taken,
			})
		}
	}
	// The permits have ended, so this is done even if the caller has gone, and once: a second call could settle twice.
	rest.send(context.WithoutCancel(ctx), r, func(j int, req *ports.TakeRequest, result *ports.TakeResult) {
		if result.Err != nil {
			r.observer.StoreFailed(calls[j].permit.policy, "", result.Err)
		}
		if debtReached(req, result) {
			r.holds.DebtReached(calls[j].permit.policy)
		}
	})
}

// debtReached reports whether what settles a cost left a limit that cannot owe more.
func debtReached(req *ports.TakeRequest, result *ports.TakeResult) bool {
	if req.Cost <= 0 || result.Err != nil || req.Op != domain.OpSettle && (req.Op != domain.OpRelease || result.Verdict != domain.Allowed) {
		return false
	}
	for i := range req.Limits {
		if l := &req.Limits[i]; l.Kind() != domain.KindConcurrency && l.OwesMost(result.States[i]) {
			return true
		}
	}
	return false
}

// askAll releases or renews permits, all in one call of each store.
func (r *RateLimiter) askAll(ctx context.Context, op domain.Op, calls []permitCall) {
	var b permitBatch
	for j := range calls {
		c := &calls[j]
		c.held, c.first, c.renewed, c.err = op == domain.OpRenew, false, false, nil
		for i := range c.permit.groups {
			switch g := &c.permit.groups[i]; {
			case !g.holds || g.place == nowhere:
			case g.place == inOther:
				c.held = op == domain.OpRelease && c.held
			default:
				req := ports.TakeRequest{Op: op, Key: g.key, Limits: g.limits, Permit: c.permit.id}
				if op == domain.OpRelease {
					req.Cost, req.TakenAt = c.difference, g.taken
				}
				b.add(g.place, j, req)
			}
		}
	}
	asked := make([]bool, len(calls))
	b.send(ctx, r, func(j int, req *ports.TakeRequest, result *ports.TakeResult) {
		c, allowed := &calls[j], result.Verdict == domain.Allowed
		switch {
		case result.Err != nil:
			c.err, c.renewed = result.Err, c.renewed || op == domain.OpRenew && mayHaveRun(result.Err)
		case op == domain.OpRenew:
			c.held, c.renewed = c.held && allowed, c.renewed || allowed
		default:
			c.held = c.held || allowed
			c.first = c.first || !asked[j] && allowed
			if debtReached(req, result) {
				r.holds.DebtReached(c.permit.policy)
			}
		}
		asked[j] = true
	})
}

// permitBatch are requests about permits, by the store that is asked.
type permitBatch struct{ store, local permitList }

type permitList struct {
	reqs  []ports.TakeRequest
	index []int // of each request's permit in its call
}

// add adds a request about permit j, unless it was taken nowhere, or in another process.
func (b *permitBatch) add(where place, j int, req ports.TakeRequest) {
	switch where {
	case inStore:
		b.store.reqs, b.store.index = append(b.store.reqs, req), append(b.store.index, j)
	case nowhere, inOther:
	case inLocal:
		b.local.reqs, b.local.index = append(b.local.reqs, req), append(b.local.index, j)
	}
}

// send sends the requests, and hands each result to use, those of the shared store first.
func (b *permitBatch) send(
	ctx context.Context, r *RateLimiter, use func(j int, req *ports.TakeRequest, result *ports.TakeResult),
) {
	for _, to := range []struct {
		list  *permitList
		store ports.BucketStore
	}{{&b.store, r.store}, {&b.local, r.local}} {
		if len(to.list.reqs) == 0 {
			continue
		}
		results := make([]ports.TakeResult, len(to.list.reqs))
		to.store.TakeMany(ctx, to.list.reqs, results)
		for k, j := range to.list.index {
			use(j, &to.list.reqs[k], &results[k])
		}
	}
}

// grant gives the request the permit that its takes hold, if they do.
func (r *RateLimiter) grant(b *batchState, q *resolved) {
	d := &q.answer.Decision
	if q.permitID == "" || d.Outcome != decision.OutcomeAllowed || q.undone {
		return
	}
	p := permit{id: q.permitID, policy: d.Policy, cost: d.Cost}
	t := permitText{Policy: d.Policy, Client: permitClient(d.Client), NoKey: q.noKey, Override: q.overrideID, Cost: d.Cost}
	held := false
	for i := q.first; i < q.end; i++ {
		take := &b.takes[i]
		g := permitGroup{key: take.Key, limits: take.Limits, holds: take.Permit != ""}
		switch b.states[i] {
		case takeAsked:
			g.taken = b.results[i].Now
		case takeLocal:
			g.place, g.taken, t.Node = inLocal, b.results[i].Now, r.node
		default:
			g.place = nowhere
		}
		if b.peeksOnly(q, i) || g.place == nowhere && !g.holds {
			continue
		}
		held = held || g.holds && g.place != nowhere
		p.groups = append(p.groups, g)
		t.Groups = append(t.Groups, g.text(q.groupClients[i-q.first]))
	}
	d.PermitID, d.Lease, d.Permit = p.id, p.lease(), t.String(p.id)
	if q.req.Hold && held {
		r.keeper.add(p, &t, d.Lease)
	}
}

// groupClient is the client of a shared limit, by that limit's key.
type groupClient struct {
	name     string
	noKey    bool
	override string // as groupText has it
}

func (g *permitGroup) text(client groupClient) groupText {
	names := make([]string, len(g.limits))
	for i := range g.limits {
		names[i] = g.limits[i].Name()
	}
	return groupText{g.key, names, g.taken, g.place, client.name, client.noKey, client.override}
}

func mayHaveRun(cause error) bool {
	return errors.Is(cause, ports.ErrUnavailable) && !errors.Is(cause, ports.ErrNotRun)
}

// lost hands on a take or an undo whose answer did not come, so that its permit does not stay held.
func (r *RateLimiter) lost(take *ports.TakeRequest, cause error) {
	if take.Permit == "" || take.Op == domain.OpTake && !mayHaveRun(cause) {
		return
	}
	owner, _, _ := strings.Cut(string(take.Key), ":")
	r.keeper.lost(permit{id: take.Permit, policy: owner, groups: []permitGroup{{key: take.Key, limits: take.Limits, holds: true}}})
}
