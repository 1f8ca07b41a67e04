//go:build faults

package faults

import (
	"testing"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// networkFaults are faults of the network between the store and a server.
func networkFaults() []fault {
	budget := int(takeTimeout().Milliseconds())
	return []fault{
		toxic("latency beyond the budget", "latency", downstream, map[string]int{"latency": 3 * budget}, byPolicy),
		toxic("latency within the budget", "latency", downstream, map[string]int{"latency": budget / 10}, byRedis),
		toxic("jitter around the budget", "latency", downstream, map[string]int{"latency": budget, "jitter": budget}, byEither),
		toxic("requests dropped", "timeout", upstream, map[string]int{"timeout": 0}, byPolicy),
		toxic("replies dropped", "timeout", downstream, map[string]int{"timeout": 0}, byPolicy),
		toxic("connections reset", "reset_peer", downstream, map[string]int{"timeout": 0}, byPolicy),
		toxic("connections reset at once", "reset_peer", upstream, map[string]int{"timeout": 0}, byPolicy),
		toxic("replies sliced", "slices", downstream, map[string]int{"size": 8}, byRedis),
		toxic("requests sliced", "slices", upstream, map[string]int{"size": 64}, byRedis),
		toxic("no bandwidth", "bandwidth", upstream, map[string]int{"rate": 0}, byPolicy),
		toxic("connections end after a kilobyte", "limit_data", downstream, map[string]int{"bytes": 1000}, byEither),
		toxic("connections end within a reply", "limit_data", downstream, map[string]int{"bytes": 30}, byPolicy),
		toxic("connections end within a request", "limit_data", upstream, map[string]int{"bytes": 100}, byPolicy),
		{
			kind:    "refused",
			begin:   func(_ *testing.T, f *fleet) { f.links[0].disconnect() },
			end:     func(t *testing.T, f *fleet) { f.links[0].restore(t) },
			answers: byPolicy,
		},
		{
			kind: "half of the connections hang",
			begin: func(t *testing.T, f *fleet) {
				f.links[0].addToxic(t, "timeout", downstream, 0.5, map[string]int{"timeout": 0})
				killClients(t, f) // toxiproxy selects the affected connections when they open
			},
			end:     func(t *testing.T, f *fleet) { f.links[0].restore(t) },
			answers: byEither,
		},
	}
}

func toxic(kind, name, stream string, attributes map[string]int, seen answers) fault {
	return fault{
		kind:    kind,
		begin:   func(t *testing.T, f *fleet) { f.links[0].addToxic(t, name, stream, 1, attributes) },
		end:     func(t *testing.T, f *fleet) { f.links[0].restore(t) },
		answers: seen,
	}
}

// proxyFaults are replies that are lost or damaged after the script has run.
func proxyFaults() []fault {
	return []fault{
		tampered("replies lost after the run", 1, func([]byte) ([]byte, bool) { return nil, false }, byPolicy),
		tampered("some replies never sent", 10, func([]byte) ([]byte, bool) { return nil, true }, byEither),
		tampered("some replies truncated", 5, func(a []byte) ([]byte, bool) { return a[:len(a)/2], false }, byEither),
		tampered("some replies unfinished", 10, func(a []byte) ([]byte, bool) { return a[:len(a)-1], true }, byEither),
		tampered("some replies not in the protocol", 5, func([]byte) ([]byte, bool) {
			return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), false
		}, byEither),
		tampered("some replies of another call", 5, func([]byte) ([]byte, bool) { return []byte("*2\r\n:1\r\n:7\r\n"), true }, byEither),
		tampered("some replies script errors", 5, func([]byte) ([]byte, bool) {
			return []byte("-ERR Error running script\r\n"), true
		}, byEither),
	}
}

func tampered(kind string, every int, what redistest.Tamper, seen answers) fault {
	return fault{
		kind: kind, fleet: fleetConfig{proxied: true, direct: true}, lasts: 2 * time.Second,
		begin:   func(_ *testing.T, f *fleet) { f.proxy.TamperWithEvery(every, what) },
		end:     func(_ *testing.T, f *fleet) { f.proxy.Relay() },
		answers: seen,
	}
}
