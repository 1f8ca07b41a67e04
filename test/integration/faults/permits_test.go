//go:build faults

package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/invariant"
)

// permitLog is the records of the concurrency limit of a bucket group.
type permitLog struct {
	limit   int // its index in the group
	records []invariant.PermitRecord
	checker *invariant.PermitChecker

	checked invariant.PermitReport // by the last check
	losses  [settledChecks]loss    // at the last checks, the latest last
}

// settledChecks is how many checks without a new loss it takes until nothing of an older one is left: a server may come back
// seconds after it was killed, with permits that had been released, and those end with their lease.
const settledChecks = 3

func newPermitLog(limit int, l *domain.Limit, ordered bool) *permitLog {
	c, err := invariant.NewPermitChecker(invariant.Concurrency{Size: int(l.Capacity()), Lease: l.Concurrency().Lease()})
	if err != nil {
		panic(err)
	}
	c.Ordered = ordered
	return &permitLog{limit: limit, checker: c}
}

// write records an operation with its answer. denied says that this limit denied a take.
func (p *permitLog) write(req *ports.TakeRequest, result *ports.TakeResult, sent int64, denied bool) {
	r := invariant.PermitRecord{
		NowUS: sent, ID: req.Permit, Op: permitOp(req), Verdict: invariant.Lost, Held: invariant.NoCount,
	}
	if result.Err == nil {
		r.NowUS, r.Held = int64(result.Now), int(result.States[p.limit].Amount)
		switch {
		case result.Verdict == domain.Allowed:
			r.Verdict = invariant.Allowed
		case denied || r.Op == invariant.Release || r.Op == invariant.Renew:
			r.Verdict = invariant.Denied
		default: // another limit denied
			r.Verdict, r.Op = invariant.Allowed, invariant.Count
		}
	}
	p.records = append(p.records, r)
}

func permitOp(req *ports.TakeRequest) invariant.PermitOp {
	switch {
	case !req.Op.NeedsPermit(req.Cost):
		return invariant.Count
	case req.Op == domain.OpUndo:
		return invariant.Undo
	case req.Op == domain.OpRelease:
		return invariant.Release
	case req.Op == domain.OpRenew:
		return invariant.Renew
	default:
		return invariant.Grant
	}
}

// permitFindings is the result of checking the records about permits.
type permitFindings struct {
	invariant.PermitReport
	// BeyondBound is the number of permits gained beyond the bound of the data that the servers may have lost.
	BeyondBound int64
	// Breaches counts the breaches of every kind while a shard had lost nothing for some time.
	Breaches int64
}

// report adds the checker's result to found. lost is what the shard may have lost since the start, and bound the permits that a
// client may so have gained.
func (p *permitLog) report(found *findings, lost loss, bound int64) {
	report := p.checker.Report()
	found.Permits.Add(report)
	found.Permits.BeyondBound += found.bounded(report.Gained, bound)
	if p.losses[0] == lost {
		found.Permits.Breaches += breaches(&report) - breaches(&p.checked)
	}
	p.checked = report
	copy(p.losses[:], p.losses[1:])
	p.losses[settledChecks-1] = lost
}

func breaches(r *invariant.PermitReport) int64 {
	return r.OverGranted + r.FalseDenials + r.EndedEarly + r.EndedLate
}

// holder holds the permits of a worker's requests. Some it holds for longer than their lease.
type holder struct {
	l    *load
	rnd  *rand.Rand
	held []heldPermit
}

type heldPermit struct {
	text  string
	until time.Time
}

func (h *holder) add(text string) {
	if text == "" {
		return
	}
	hold := time.Duration(h.rnd.Int64N(int64(50 * time.Millisecond)))
	if h.rnd.IntN(20) == 0 {
		hold = time.Duration(h.rnd.Int64N(int64(3 * permitLease / 2)))
	}
	h.held = append(h.held, heldPermit{text, time.Now().Add(hold)})
}

// step renews a permit, or releases it, once or twice, or forgets it, so that it expires.
func (h *holder) step() {
	if len(h.held) == 0 {
		return
	}
	i := h.rnd.IntN(len(h.held))
	p := h.held[i]
	if time.Now().Before(p.until) {
		if h.rnd.IntN(20) == 0 {
			_, err := h.l.f.limiter.Renew(context.Background(), p.text)
			h.checkError("renewal", err)
		}
		return
	}
	releases := 1
	switch h.rnd.IntN(20) {
	case 0:
		releases = 0
	case 1, 2, 3:
		releases = 2
	}
	for range releases {
		_, err := h.l.f.limiter.Release(context.Background(), p.text, ports.Unsettled)
		h.checkError("release", err)
		if err != nil {
			h.held[i].until = time.Now().Add(100 * time.Millisecond)
			return
		}
	}
	h.held = slices.Delete(h.held, i, i+1)
}

// checkError counts an error. The checks hold whatever fault is active.
func (h *holder) checkError(what string, err error) {
	if err == nil || errors.Is(err, ports.ErrPermitEnded) {
		return
	}
	h.l.errs.Add(1)
	if !known(err) {
		h.l.reportWrong("a %s: %v", what, err)
	}
}
