package domain

import (
	"math/big"
	"strconv"
	"strings"
	"time"
)

const rateForm = "must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h, 10000/24h or 3/250ms"

// ParseRate reads "<tokens>/<duration>". The duration is a unit alone (us, ms, s, m, h) or what
// [time.ParseDuration] takes. Ranges are left to [NewLimit].
func ParseRate(s string) (refill Tokens, per time.Duration, err error) {
	bad := func(reason string) (Tokens, time.Duration, error) {
		return 0, 0, &FieldError{ErrInvalidLimit, "rate", strconv.Quote(s), reason}
	}
	count, span, found := strings.Cut(s, "/")
	if !found || count == "" || span == "" {
		return bad(rateForm)
	}
	n, err := strconv.ParseUint(count, 10, 63)
	if err != nil {
		return bad("the tokens " + strconv.Quote(count) + " are not a whole number in range; " + rateForm)
	}
	if span[0] == '-' || span[0] == '+' {
		return bad(rateForm)
	}
	if span[0] < '0' || span[0] > '9' {
		span = "1" + span
	}
	per, err = time.ParseDuration(span)
	if err != nil {
		return bad(rateForm)
	}
	return Tokens(n), per, nil
}

// FormatRate is the inverse of [ParseRate], in the largest unit that keeps it whole.
func FormatRate(refill Tokens, per time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}}
	out := strconv.FormatInt(int64(refill), 10) + "/"
	for _, u := range units {
		if per >= u.size && per%u.size == 0 {
			if n := int64(per / u.size); n > 1 {
				out += strconv.FormatInt(n, 10)
			}
			return out + u.name
		}
	}
	return out + strconv.FormatInt(int64(per), 10) + "ns"
}

// nearestRate finds the rate closest to refill/per that a bucket of this capacity can count exactly and that
// fills it within [MaxFill]. It is used for error messages alone.
func nearestRate(capacity, refill Tokens, per time.Duration) (Tokens, time.Duration) {
	slowest := maxFillTicks(1) / int64(capacity) // 1 token in so many microseconds fills within MaxFill
	want := big.NewRat(int64(refill), 1)
	want.Quo(want, big.NewRat(int64(per), int64(time.Microsecond))) // tokens per microsecond
	if want.Cmp(big.NewRat(1, slowest)) <= 0 {
		return 1, time.Duration(slowest) * time.Microsecond
	}
	maxToken := big.NewInt(int64(MaxCredits) / int64(capacity))
	near := bestApproximation(want, maxToken, big.NewInt(int64(MaxTokens)))
	if near.Cmp(big.NewRat(1, slowest)) < 0 {
		return 1, time.Duration(slowest) * time.Microsecond
	}
	return Tokens(near.Num().Int64()), time.Duration(near.Denom().Int64()) * time.Microsecond
}

// bestApproximation walks the Stern-Brocot tree by continued fractions to the fraction closest to x > 0 whose
// denominator and numerator are within bounds (Graham, Knuth, Patashnik: Concrete Mathematics, 4.5).
func bestApproximation(x *big.Rat, maxDenom, maxNum *big.Int) *big.Rat {
	lo := [2]*big.Int{big.NewInt(0), big.NewInt(1)} // 0/1
	hi := [2]*big.Int{big.NewInt(1), big.NewInt(0)} // 1/0
	rest := new(big.Rat).Set(x)
	for up := true; ; up = !up {
		whole := new(big.Int).Quo(rest.Num(), rest.Denom())
		from, step := lo, hi
		if !up {
			from, step = hi, lo
		}
		steps, cut := boundedSteps(whole, from, step, maxNum, maxDenom)
		from[0] = new(big.Int).Add(from[0], new(big.Int).Mul(steps, step[0]))
		from[1] = new(big.Int).Add(from[1], new(big.Int).Mul(steps, step[1]))
		if up {
			lo = from
		} else {
			hi = from
		}
		rest.Sub(rest, new(big.Rat).SetInt(whole))
		if cut || rest.Sign() == 0 {
			return closer(x, lo, hi)
		}
		rest.Inv(rest)
	}
}

// boundedSteps returns how many of the wanted steps from + k*step stay within both bounds.
func boundedSteps(want *big.Int, from, step [2]*big.Int, maxNum, maxDenom *big.Int) (steps *big.Int, cut bool) {
	steps = new(big.Int).Set(want)
	for i, bound := range []*big.Int{maxNum, maxDenom} {
		if step[i].Sign() == 0 {
			continue
		}
		room := new(big.Int).Sub(bound, from[i])
		room.Quo(room, step[i])
		if room.Cmp(steps) < 0 {
			steps, cut = room, true
		}
	}
	return steps, cut
}

func closer(x *big.Rat, lo, hi [2]*big.Int) *big.Rat {
	if hi[1].Sign() == 0 {
		return new(big.Rat).SetFrac(lo[0], lo[1])
	}
	if lo[0].Sign() == 0 {
		return new(big.Rat).SetFrac(hi[0], hi[1])
	}
	low, high := new(big.Rat).SetFrac(lo[0], lo[1]), new(big.Rat).SetFrac(hi[0], hi[1])
	below, above := new(big.Rat).Sub(x, low), new(big.Rat).Sub(high, x)
	if above.Cmp(below) < 0 {
		return high
	}
	return low
}
