package policy

import (
	"strconv"
	"strings"
)

// StatusSet is a set of HTTP statuses. The zero value is empty. Immutable, and cheap to copy.
type StatusSet struct{ bits *[maxStatus/64 + 1]uint64 }

const minStatus, maxStatus = 100, 599

// Has reports whether status is in the set.
func (s StatusSet) Has(status int) bool {
	return s.bits != nil && status >= minStatus && status <= maxStatus && s.bits[status/64]&(1<<(status%64)) != 0
}

// Empty reports whether there is no status in the set.
func (s StatusSet) Empty() bool { return s.bits == nil }

// ParseRefundOn reads statuses ("503") and classes of them ("2xx") for [Policy.RefundOn]. It refuses 401, 403, 429 and the
// class 4xx, which holds them: tokens that come back after a wrong password would make guessing free.
func ParseRefundOn(entries ...string) (StatusSet, error) {
	var set StatusSet
	for _, entry := range entries {
		from, to, err := parseStatus(entry)
		if err != nil {
			return StatusSet{}, err
		}
		if set.bits == nil {
			set.bits = new([maxStatus/64 + 1]uint64)
		}
		for status := from; status <= to; status++ {
			set.bits[status/64] |= 1 << (status % 64)
		}
	}
	return set, nil
}

func parseStatus(s string) (from, to int, err error) {
	bad := func(reason string) (int, int, error) {
		return 0, 0, invalid("refund_on", strconv.Quote(s), reason)
	}
	const form = "must be a status from 100 to 599, or a class: 1xx, 2xx, 3xx, 5xx"
	if digit, class := strings.CutSuffix(s, "xx"); class && len(digit) == 1 && digit[0] >= '1' && digit[0] <= '5' {
		if digit == "4" {
			return bad("holds 401, 403 and 429, after which tokens must not come back: guessing would be free")
		}
		from = int(digit[0]-'0') * 100
		return from, from + 99, nil
	}
	status, err := strconv.Atoi(s)
	switch {
	case err != nil || len(s) != 3 || status < minStatus || status > maxStatus:
		return bad(form)
	case status == 401 || status == 403 || status == 429:
		return bad("tokens must not come back after it: guessing would be free")
	}
	return status, status, nil
}

// String lists the statuses, classes where they are whole: "2xx, 503".
func (s StatusSet) String() string {
	var list []string
	for class := minStatus; class < maxStatus; class += 100 {
		var some []string
		for status := class; status < class+100; status++ {
			if s.Has(status) {
				some = append(some, strconv.Itoa(status))
			}
		}
		if len(some) == 100 {
			some = []string{strconv.Itoa(class/100) + "xx"}
		}
		list = append(list, some...)
	}
	return strings.Join(list, ", ")
}
