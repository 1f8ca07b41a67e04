package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// effect is what a failed call may have done at its server.
type effect string

const (
	// notRun: the server has refused the script, or was not reached.
	notRun effect = "not carried out"
	// mayHaveRun: the script may have run, whole, and only its answer been lost.
	mayHaveRun effect = "may have been carried out"
)

// refusals are the first words with which a server refuses a script that starts with "#!lua" before it runs, or
// refuses the connection.
var refusals = []string{
	"NOSCRIPT", "BUSY", "OOM", "READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOREPLICAS", "MISCONF",
	"MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "NOAUTH", "WRONGPASS", "NOPERM", "ERR max number of clients reached",
	"ERR this script ",
}

// effectOf classifies every error of go-redis.
func effectOf(err error) effect {
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.Is(err, redis.ErrClosed),
		errors.As(err, &dial) && dial.Op == "dial",
		errors.As(err, &certificate),
		// go-redis returns the context's error only while the call waits for a connection. A deadline that passes
		// while a reply is awaited is os.ErrDeadlineExceeded, another one.
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return notRun
	}
	var answer redis.Error
	if errors.As(err, &answer) {
		for _, word := range refusals {
			if strings.HasPrefix(answer.Error(), word) {
				return notRun
			}
		}
	}
	return mayHaveRun
}
