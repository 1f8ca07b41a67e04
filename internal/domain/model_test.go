package domain_test

import (
	"math/big"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// model is a limit written a second time, from its description, in exact rationals: it counts the tokens that are left, not
// credits, and shares no arithmetic with package domain. What a token is worth appears only where the description
// speaks of it: in the bound of a debt and in the rounding of a fraction under a changed limit.
type model struct {
	cost    domain.Tokens  // the limit's own
	periods domain.Periods // nil: it is a bucket

	capacity, perTick, debt *big.Rat // in tokens
	tokenCredits            *big.Int
	tick                    int64 // microseconds

	stored bool
	level  *big.Rat
	at     int64
}

func newModel(l *domain.Limit) model {
	if q := l.Quota(); q != nil {
		return model{
			cost: l.Cost(), periods: q.Periods(), capacity: whole(l.Capacity()), debt: big.NewRat(1<<52, 1), tokenCredits: big.NewInt(1),
		}
	}
	refill, per := l.TokenBucket().Rate()
	m := model{cost: l.Cost(), tick: l.TokenBucket().TickMicros(), capacity: whole(l.Capacity())}
	m.perTick = big.NewRat(int64(refill), int64(per))
	m.perTick.Mul(m.perTick, big.NewRat(m.tick*1000, 1))
	m.tokenCredits = new(big.Int).Set(m.perTick.Denom())

	century := new(big.Rat).Mul(m.perTick, big.NewRat(domain.MaxFill.Microseconds(), m.tick))
	m.debt = new(big.Rat).SetFrac(big.NewInt(1<<52), m.tokenCredits)
	if century.Cmp(m.debt) < 0 {
		m.debt = century
	}
	return m
}

// load takes over a stored state, whatever the limit of its kind was.
func (m model) load(b domain.State) model {
	if m.stored = b.TokenCredits != 0; !m.stored {
		return m
	}
	m.at = int64(b.At)
	if m.periods != nil {
		m.level = new(big.Rat).Sub(m.capacity, big.NewRat(int64(b.Amount), 1))
		return m.clamped()
	}
	m.level = big.NewRat(int64(b.Amount), int64(b.TokenCredits))
	if big.NewInt(int64(b.TokenCredits)).Cmp(m.tokenCredits) != 0 {
		whole := floorRat(m.level)
		fraction := new(big.Rat).Sub(m.level, new(big.Rat).SetInt(whole))
		fraction.Mul(fraction, new(big.Rat).SetInt(m.tokenCredits))
		fraction.SetFrac(floorRat(fraction), m.tokenCredits)
		m.level = fraction.Add(fraction, new(big.Rat).SetInt(whole))
		if whole.Neg(whole).Cmp(floorRat(m.debt)) > 0 {
			m.level = new(big.Rat).Neg(m.debt)
		}
	}
	return m.clamped()
}

func (m model) clamped() model {
	m.level = minRat(m.level, m.capacity)
	if least := new(big.Rat).Neg(m.debt); m.level.Cmp(least) < 0 {
		m.level = least
	}
	return m
}

func (m model) seen(now domain.Instant) model {
	switch {
	case m.periods != nil:
		if !m.stored || !m.counts(domain.Instant(m.at), now) {
			m.level, m.at = m.capacity, int64(now)
		}
		m.stored, m.at = true, min(m.at, int64(now))
	case !m.stored:
		m.stored, m.level, m.at = true, m.capacity, int64(now)
	case m.at > int64(now):
		m.at = int64(now)
	default:
		ticks := (int64(now) - m.at) / m.tick
		m.at += ticks * m.tick
		m.level = new(big.Rat).Add(m.level, new(big.Rat).Mul(m.perTick, big.NewRat(ticks, 1)))
		if m.level.Cmp(m.capacity) >= 0 {
			m.level, m.at = m.capacity, int64(now)
		}
	}
	return m
}

// counts reports whether what happened at the instant at counts at now.
func (m model) counts(at, now domain.Instant) bool {
	if m.periods == nil {
		return true
	}
	start, _, _ := m.periods.At(now)
	return at >= start
}

func (m model) add(tokens domain.Tokens, now domain.Instant) model {
	return m.with(minRat(new(big.Rat).Add(m.level, whole(tokens)), m.capacity), now)
}

// with returns the model at another level.
func (m model) with(level *big.Rat, now domain.Instant) model {
	if m.periods != nil && m.level.Cmp(level) != 0 {
		m.at = int64(now)
	}
	m.level = level
	return m
}

// lent is the level, at most 0, down to which a take may go that waits: what is refilled in the whole ticks of maxWait, at
// most the largest debt.
func (m model) lent(maxWait time.Duration) *big.Rat {
	if m.periods != nil {
		return new(big.Rat)
	}
	lent := new(big.Rat).Mul(m.perTick, big.NewRat(maxWait.Microseconds()/m.tick, 1))
	return lent.Neg(minRat(lent, m.debt))
}

// bucket is the state as package domain would keep it.
func (m model) bucket() domain.State {
	if m.periods != nil {
		used := new(big.Rat).Sub(m.capacity, m.level)
		return domain.State{Amount: domain.Credits(used.Num().Int64()), At: domain.Instant(m.at), TokenCredits: 1}
	}
	credits := new(big.Rat).Mul(m.level, new(big.Rat).SetInt(m.tokenCredits))
	if !credits.IsInt() {
		panic("the level is no whole number of credits")
	}
	return domain.State{
		Amount:       domain.Credits(credits.Num().Int64()),
		At:           domain.Instant(m.at),
		TokenCredits: domain.Credits(m.tokenCredits.Int64()),
	}
}

// modelGroup is a bucket group made of models.
type modelGroup []model

// apply returns the models as seen at now, after the operation.
func (g modelGroup) apply(op domain.Operation, now domain.Instant) (verdict domain.Verdict, after modelGroup, write bool) {
	if op.TakenAt == 0 {
		op.TakenAt = now
	}
	after = make(modelGroup, len(g))
	for i, m := range g {
		if op.Op == domain.OpReset {
			m.stored = false
		}
		write = write || m.stored && m.at > int64(now)
		after[i] = m.seen(now)
	}
	if op.Op == domain.OpPeek || op.Op == domain.OpTake && op.Cost == 0 {
		return domain.Allowed, after, false
	}
	ahead, settling := write, op.Op == domain.OpRelease || op.Op == domain.OpSettle
	for i, m := range after {
		cost, settled := op.Cost, (op.Op == domain.OpUndo || m.cost == 0) && m.counts(op.TakenAt, now)
		if m.cost > 0 {
			cost = m.cost
		}
		rest := new(big.Rat).Sub(m.level, whole(cost))
		least := new(big.Rat).Neg(m.debt)
		switch {
		case op.Op == domain.OpReset:
			write = true
		case op.Op == domain.OpTake && (rest.Cmp(m.lent(op.MaxWait)) < 0 || whole(cost).Cmp(m.capacity) > 0):
			return domain.Denied, g.seenAt(now), ahead
		case op.Op == domain.OpTake:
			after[i], write = m.add(-cost, now), true
		case !settled: // it stays as it is
		case op.Op == domain.OpCharge && rest.Cmp(least) < 0:
			return domain.DebtExceeded, g.seenAt(now), ahead
		case settling && cost == 0: // nothing is left to settle
		case settling && rest.Cmp(least) < 0:
			after[i], write = m.with(least, now), true
		case op.Op == domain.OpCharge, settling && cost > 0:
			after[i], write = m.add(-cost, now), true
		case settling:
			after[i] = m.add(-cost, now)
			write = write || m.level.Cmp(m.capacity) < 0
		default:
			after[i] = m.add(cost, now)
			write = write || m.level.Cmp(m.capacity) < 0
		}
	}
	return domain.Allowed, after, write
}

func (g modelGroup) seenAt(now domain.Instant) modelGroup {
	after := make(modelGroup, len(g))
	for i, m := range g {
		after[i] = m.seen(now)
	}
	return after
}

func (g modelGroup) buckets() []domain.State {
	all := make([]domain.State, len(g))
	for i, m := range g {
		all[i] = m.bucket()
	}
	return all
}

func floorRat(r *big.Rat) *big.Int {
	// Div is Euclidean, which is the floor for a positive divisor.
	return new(big.Int).Div(r.Num(), r.Denom())
}

func minRat(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}
