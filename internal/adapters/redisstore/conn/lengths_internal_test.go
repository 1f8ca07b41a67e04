package conn

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLengths_refusesImpossibleOnesHoweverTheyArrive(t *testing.T) {
	for reply, want := range map[string]bool{
		"*3\r\n:2\r\n:99999999999999\r\n$5\r\na\r\n*9\r\n+OK\r\n":  true, // a string may hold anything
		"$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n-ERR *9999999999\r\n:1\r\n": true,
		"*1048576\r\n":                 true,
		"$67108864\r\n":                true,
		"*1048577\r\n":                 false,
		"*9223372036854775807\r\n":     false,
		"$67108865\r\n":                false,
		"*2\r\n$1\r\n*\r\n$9999999999": false,
		"*2\r\n:1\r\n*99999999\r\n":    false,
	} {
		for step := 1; step <= len(reply); step++ {
			var l lengths
			var err error
			for rest := []byte(reply); len(rest) > 0 && err == nil; rest = rest[min(step, len(rest)):] {
				err = l.read(rest[:min(step, len(rest))])
			}
			assert.Equal(t, want, err == nil, "%q in steps of %d: %v", reply, step, err)
		}
	}
}
