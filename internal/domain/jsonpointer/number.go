package jsonpointer

import (
	"bytes"
	"math"
	"strconv"
)

// maxNumber bounds the text of a number, in bytes. A longer one is no whole number. Digits alone need at most 19.
const maxNumber = 32

// parseWhole returns the value of a JSON number (RFC 8259, section 6) if that is a whole number from 0 to 2^63-1, however it is
// written: 1000, 1000.0, 1e3 and 10000e-1 are the same. -0 is none. It computes in integers alone.
func parseWhole(text []byte) (n int64, ok bool) {
	mantissa, shift := text, 0 // of the decimal point, to the right
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(string(text[i+1:]))
		if err != nil {
			return 0, false
		}
		mantissa, shift = text[:i], exponent
	}
	digits, fraction, hasFraction := bytes.Cut(mantissa, []byte{'.'})
	if !isDigits(digits) || digits[0] == '0' && len(digits) > 1 || hasFraction && !isDigits(fraction) || len(text) > maxNumber {
		return 0, false
	}
	var memory [maxNumber]byte
	all := append(append(memory[:0], digits...), fraction...)
	for shift -= len(fraction); shift < 0 && len(all) > 0; shift++ {
		if all[len(all)-1] != '0' {
			return 0, false
		}
		all = all[:len(all)-1]
	}
	if len(all) > 0 {
		var err error
		if n, err = strconv.ParseInt(string(all), 10, 64); err != nil {
			return 0, false
		}
	}
	for ; shift > 0 && n > 0; shift-- {
		if n > math.MaxInt64/10 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}

func isDigits(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}
