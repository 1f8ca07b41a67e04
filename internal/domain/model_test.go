package domain_test

import (
	"math/big"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// model is the token bucket written a second time, from its description, in exact rationals: it counts tokens, not
// credits, and shares no arithmetic with package domain. What a token is worth appears only where the description
// speaks of it: in the bound of a debt and in the rounding of a fraction under a changed limit.
type model struct {
	capacity, perTick, debt *big.Rat // in tokens
	tokenCredits            *big.Int
	tick                    int64 // microseconds

	stored bool
	level  *big.Rat
	at     int64
}

func newModel(l *domain.Limit) model {
	refill, per := l.Rate()
	m := model{tick: l.TickMicros(), capacity: big.NewRat(int64(l.Capacity()), 1)}
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

// load takes over a stored bucket, whatever its limit was.
func (m model) load(b domain.Bucket) model {
	if m.stored = b.TokenCredits != 0; !m.stored {
		return m
	}
	m.at = int64(b.At)
	m.level = big.NewRat(int64(b.Credits), int64(b.TokenCredits))
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
	m.level = minRat(m.level, m.capacity)
	if least := new(big.Rat).Neg(m.debt); m.level.Cmp(least) < 0 {
		m.level = least
	}
	return m
}

func (m model) seen(now domain.Instant) model {
	switch {
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

func (m model) add(tokens domain.Tokens) model {
	m.level = minRat(new(big.Rat).Add(m.level, big.NewRat(int64(tokens), 1)), m.capacity)
	return m
}

// bucket is the state as package domain would keep it.
func (m model) bucket() domain.Bucket {
	credits := new(big.Rat).Mul(m.level, new(big.Rat).SetInt(m.tokenCredits))
	if !credits.IsInt() {
		panic("the level is no whole number of credits")
	}
	return domain.Bucket{
		Credits:      domain.Credits(credits.Num().Int64()),
		At:           domain.Instant(m.at),
		TokenCredits: domain.Credits(m.tokenCredits.Int64()),
	}
}

// modelGroup is a bucket group made of models.
type modelGroup []model

// apply returns the models as seen at now, after the operation.
func (g modelGroup) apply(op domain.Op, cost domain.Tokens, now domain.Instant) (verdict domain.Verdict, after modelGroup, write bool) {
	after = make(modelGroup, len(g))
	for i, m := range g {
		if op == domain.OpReset {
			m.stored = false
		}
		write = write || m.stored && m.at > int64(now)
		after[i] = m.seen(now)
	}
	if op == domain.OpPeek || op == domain.OpTake && cost == 0 {
		return domain.Allowed, after, false
	}
	for i, m := range after {
		rest := new(big.Rat).Sub(m.level, big.NewRat(int64(cost), 1))
		switch {
		case op == domain.OpTake && rest.Sign() < 0:
			return domain.Denied, g.seenAt(now), write
		case op == domain.OpCharge && rest.Cmp(new(big.Rat).Neg(m.debt)) < 0:
			return domain.DebtExceeded, g.seenAt(now), write
		case op == domain.OpRefund:
			after[i] = m.add(cost)
			write = write || m.level.Cmp(m.capacity) < 0
		case op == domain.OpReset:
			write = true
		default:
			after[i] = m.add(-cost)
		}
	}
	return domain.Allowed, after, write || op == domain.OpTake || op == domain.OpCharge
}

func (g modelGroup) seenAt(now domain.Instant) modelGroup {
	after := make(modelGroup, len(g))
	for i, m := range g {
		after[i] = m.seen(now)
	}
	return after
}

func (g modelGroup) buckets() []domain.Bucket {
	all := make([]domain.Bucket, len(g))
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
