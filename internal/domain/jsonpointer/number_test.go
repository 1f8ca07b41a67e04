package jsonpointer_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestScanner_wholeNumbersInEveryForm(t *testing.T) {
	for text, want := range map[string]value{
		"0": whole(0), "0.0": whole(0), "0e9": whole(0), "0E-9": whole(0), "0e99999999": whole(0), "0.000e-99999999": whole(0),
		"12": whole(12), "12.0": whole(12), "12.000": whole(12), "1.2e1": whole(12), "1.2E+1": whole(12), "120e-1": whole(12),
		"0.12e2": whole(12), "0.0012e0004": whole(12), "1e3": whole(1000),
		"9223372036854775807": whole(math.MaxInt64), "9223372036854775807.000": whole(math.MaxInt64), "9223372036854775.807e3": whole(math.MaxInt64),
		"9e18": whole(9e18), "1.0000000000000000000000000000": whole(1),
		"9223372036854775808": other, "9223372036854775.808e3": other, "1e19": other, "1e99999999": other, "1e9999999999999999999": other,
		"12.5": other, "12.05e1": other, "1e-1": other, "10e-2": other, "-0": other, "-1": other, "-1e2": other,
		"01": other, "00": other, "1.": other, ".5": other, "1e": other, "1e+": other, "1e1.0": other, "1e1e1": other, "1e--1": other, "1.2.3": other,
		"1.00000000000000000000000000000000": other, // longer than any number that is read
		"e3":                                 other, "infinity": other, "nan": other, "0x10": other,
	} {
		for _, size := range []int{1, 100} {
			assert.Equal(t, want, scan(t, `{"a":`+text+`}`, size, "/a")[0], text)
		}
	}
}
