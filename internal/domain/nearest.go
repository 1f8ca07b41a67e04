package domain

import (
	"math"
	"math/big"
	"time"
)

// nearestRate finds the rate closest to refill/per that a bucket of this capacity can count exactly and that
// fills it within [MaxFill]. Only error messages use it, so it need not be fast.
func nearestRate(capacity, refill Tokens, per time.Duration) (Tokens, time.Duration) {
	maxToken := int64(MaxCredits) / int64(capacity)
	var nearest, nearestGap *big.Rat
	var nearestTick time.Duration
	for _, tick := range []time.Duration{time.Microsecond, time.Millisecond} {
		// Rates are in tokens per tick here.
		want := big.NewRat(int64(refill), 1)
		want.Quo(want, big.NewRat(int64(per), int64(tick)))
		least := big.NewRat(int64(capacity), maxFillTicks(tick.Microseconds()))
		from := want
		if want.Cmp(least) < 0 {
			from = least
		}
		maxTicks := min(maxToken, math.MaxInt64/int64(tick)) // a Duration holds no more
		for _, rate := range neighbours(from, big.NewInt(int64(MaxTokens)), big.NewInt(maxTicks)) {
			if rate == nil || rate.Cmp(least) < 0 {
				continue
			}
			gap := new(big.Rat).Sub(rate, want)
			gap.Quo(gap.Abs(gap), want) // relative, since the ticks differ
			if nearest == nil || gap.Cmp(nearestGap) < 0 {
				nearest, nearestGap, nearestTick = rate, gap, tick
			}
		}
	}
	return Tokens(nearest.Num().Int64()), time.Duration(nearest.Denom().Int64()) * nearestTick
}

// neighbours returns the fractions within both bounds that enclose x > 0 most closely: the greatest that is at most
// x, then the least that is at least x, nil if there is none. It walks the Stern-Brocot tree by continued fractions
// (Graham, Knuth, Patashnik: Concrete Mathematics, 4.5).
func neighbours(x *big.Rat, maxNum, maxDenom *big.Int) [2]*big.Rat {
	// Each side is a numerator and a denominator; 1/0 is a bound, but no fraction.
	lo := [2]*big.Int{big.NewInt(0), big.NewInt(1)}
	hi := [2]*big.Int{big.NewInt(1), big.NewInt(0)}
	rest := new(big.Rat).Set(x)
	for up := true; ; up = !up {
		whole := new(big.Int).Quo(rest.Num(), rest.Denom())
		side, step := &lo, hi
		if !up {
			side, step = &hi, lo
		}
		steps := boundedSteps(whole, *side, step, maxNum, maxDenom)
		for i := range side {
			side[i] = new(big.Int).Add(side[i], new(big.Int).Mul(steps, step[i]))
		}
		rest.Sub(rest, new(big.Rat).SetInt(whole))
		switch {
		case steps.Cmp(whole) < 0: // the next fraction between the two is out of bounds, and so are all others
			return [2]*big.Rat{fraction(lo), fraction(hi)}
		case rest.Sign() == 0:
			return [2]*big.Rat{fraction(*side), fraction(*side)}
		}
		rest.Inv(rest)
	}
}

func fraction(f [2]*big.Int) *big.Rat {
	if f[1].Sign() == 0 {
		return nil
	}
	return new(big.Rat).SetFrac(f[0], f[1])
}

// boundedSteps returns how many of the wanted steps from + k*step stay within both bounds.
func boundedSteps(want *big.Int, from, step [2]*big.Int, bounds ...*big.Int) *big.Int {
	steps := want
	for i, bound := range bounds {
		if step[i].Sign() == 0 {
			continue
		}
		most := new(big.Int).Sub(bound, from[i])
		if most.Quo(most, step[i]).Cmp(steps) < 0 {
			steps = most
		}
	}
	return steps
}
