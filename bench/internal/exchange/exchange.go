// Package exchange writes requests to Velocity's HTTP interface and reads its answers.
package exchange

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/load"
)

// Client draws the name of the next client.
type Client func(*rand.Rand) string

// Get asks for a protected path.
func Get(path string, draw Client) httpload.Exchange {
	return httpload.Exchange{
		AppendRequest: func(dst []byte, rng *rand.Rand) []byte { return AppendGet(dst, path, draw(rng)) },
		Classify:      classifyStatus,
	}
}

// GetOfTenant asks for a protected path, and names the client's tenant in X-Tenant.
func GetOfTenant(path string, draw Client, tenant func(client string) string) httpload.Exchange {
	return httpload.Exchange{
		AppendRequest: func(dst []byte, rng *rand.Rand) []byte {
			client := draw(rng)
			dst = appendHead(dst, path, client)
			return append(append(append(dst, "\r\nX-Tenant: "...), tenant(client)...), "\r\n\r\n"...)
		},
		Classify: classifyStatus,
	}
}

// AppendGet appends the request of one client, who is named in X-Client-ID.
func AppendGet(dst []byte, path, client string) []byte {
	return append(appendHead(dst, path, client), "\r\n\r\n"...)
}

func appendHead(dst []byte, path, client string) []byte {
	dst = append(append(dst, "GET "...), path...)
	return append(append(dst, " HTTP/1.1\r\nHost: bench\r\nX-Client-ID: "...), client...)
}

// byFallback is the header of an answer that a failure policy gave, without the store. Servers spell the name in two ways.
var byFallback = [][]byte{[]byte("X-RateLimit-Store"), []byte("X-Ratelimit-Store")}

func classifyStatus(a httpload.Answer) (load.Outcome, error) {
	o := load.Outcome{Decisions: 1}
	switch a.Status {
	case http.StatusOK:
		o.Allowed = 1
	case http.StatusTooManyRequests:
	default:
		return o, fmt.Errorf("unexpected answer: %s\n%s", a.Head, a.Body)
	}
	if bytes.Contains(a.Head, byFallback[0]) || bytes.Contains(a.Head, byFallback[1]) {
		o.Degraded = 1
	}
	return o, nil
}

// Check asks POST /v1/check for one client.
func Check(draw Client) httpload.Exchange {
	return post("/v1/check", 1, func(dst []byte, rng *rand.Rand) []byte { return appendCheck(dst, draw(rng)) })
}

// Checks asks POST /v1/checks for n clients in one call.
func Checks(draw Client, n int) httpload.Exchange {
	return post("/v1/checks", n, func(dst []byte, rng *rand.Rand) []byte {
		dst = append(dst, `{"checks":[`...)
		for i := range n {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCheck(dst, draw(rng))
		}
		return append(dst, "]}"...)
	})
}

func appendCheck(dst []byte, client string) []byte {
	dst = append(append(dst, `{"key":"`...), client...)
	return append(dst, `"}`...)
}

// lengthDigits is the width of the Content-Length, written after the body is known.
const lengthDigits = 6

func post(path string, decisions int, appendBody func([]byte, *rand.Rand) []byte) httpload.Exchange {
	head := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
	return httpload.Exchange{
		AppendRequest: func(dst []byte, rng *rand.Rand) []byte {
			dst = append(dst, head...)
			lengthAt := len(dst)
			dst = append(dst, "000000\r\n\r\n"...)
			bodyAt := len(dst)
			dst = appendBody(dst, rng)
			length := strconv.Itoa(len(dst) - bodyAt)
			copy(dst[lengthAt+lengthDigits-len(length):], length)
			return dst
		},
		Classify: func(a httpload.Answer) (load.Outcome, error) { return classifyChecks(a, decisions) },
	}
}

// classifyChecks counts the results of one check or of many by members that each result has once.
func classifyChecks(a httpload.Answer, want int) (load.Outcome, error) {
	o := load.Outcome{
		Decisions: bytes.Count(a.Body, []byte(`"store":"`)),
		Degraded:  bytes.Count(a.Body, []byte(`"store":"fallback"`)),
		Allowed:   bytes.Count(a.Body, []byte(`{"allowed":true`)),
	}
	if a.Status != http.StatusOK || o.Decisions != want {
		return o, fmt.Errorf("%d results instead of %d: %s\n%s", o.Decisions, want, a.Head, a.Body)
	}
	return o, nil
}
