package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// effect is what a failed call may have done at its server.
type effect string

const (
	// notRun: the server has refused the script, or was not reached.
	notRun effect = "not carried out"
	// mayHaveRun: the script may have run, whole, and only its answer been lost.
	mayHaveRun effect = "may have been carried out"
)

// failure is what an error says.
type failure struct {
	kind ports.FailureKind
	ran  effect
	// trips: the server cannot decide, which counts for the circuit breaker. What does not trip says that it lives,
	// or nothing about it.
	trips bool
}

// answers are the first words of what a server may answer instead of deciding. A script that starts with "#!lua" is
// refused before it starts, so most of them say that nothing has run.
var answers = []struct {
	word string
	failure
}{
	{"NOSCRIPT", failure{ports.FailureNoScript, notRun, false}},
	{"MOVED", failure{ports.FailureMoved, notRun, false}},
	{"ASK", failure{ports.FailureMoved, notRun, false}},
	{"TRYAGAIN", failure{ports.FailureMoved, notRun, false}},
	{"CROSSSLOT", failure{ports.FailureCrossSlot, notRun, false}},
	{"ERR Script attempted to access a non local key", failure{ports.FailureCrossSlot, mayHaveRun, false}},
	{"WRONGTYPE", failure{ports.FailureWrongType, notRun, false}},
	{"CORRUPT", failure{ports.FailureCorrupt, notRun, false}},

	{"BUSY", failure{ports.FailureBusy, notRun, true}},
	{"OOM", failure{ports.FailureOOM, notRun, true}},
	{"READONLY", failure{ports.FailureReadOnly, notRun, true}},
	{"MASTERDOWN", failure{ports.FailureMasterDown, notRun, true}},
	{"NOREPLICAS", failure{ports.FailureNoReplicas, notRun, true}},
	{"MISCONF", failure{ports.FailureMisconf, notRun, true}},
	{"LOADING", failure{ports.FailureLoading, notRun, true}},
	{"CLUSTERDOWN", failure{ports.FailureClusterDown, notRun, true}},
	{"NOAUTH", failure{ports.FailureAuth, notRun, true}},
	// What is longer than ten words is not even read before the password is known.
	{"ERR Protocol error: unauthenticated ", failure{ports.FailureAuth, notRun, true}},
	{"WRONGPASS", failure{ports.FailureAuth, notRun, true}},
	{"NOPERM", failure{ports.FailureNoPerm, notRun, true}},
	// Redis 7.0 says this of a command within the script, so others before it may have run.
	{"ERR The user executing the script can't", failure{ports.FailureNoPerm, mayHaveRun, true}},
	{"ERR max number of clients reached", failure{ports.FailureMaxClients, notRun, true}},
	{"ERR this script ", failure{ports.FailureScript, notRun, true}},
	{"", failure{ports.FailureScript, mayHaveRun, true}},
}

// scriptError is what the script, or a command in it, says of one group.
type scriptError string

func (e scriptError) Error() string { return string(e) }

// RedisError marks it as a server's answer, as go-redis marks those of whole commands.
func (scriptError) RedisError() {}

// classify says what each error of go-redis, and each of the script, means.
func classify(err error) failure {
	var answer redis.Error
	switch {
	case isDialError(err):
		return failure{kindOfDial(err), notRun, true}
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return failure{ports.FailurePool, notRun, true}
	case errors.Is(err, redis.ErrClosed):
		return failure{ports.FailureShutdown, notRun, false}
	case errors.Is(err, context.Canceled):
		return failure{ports.FailureCancelled, notRun, false}
	case errors.Is(err, context.DeadlineExceeded):
		// go-redis returns the context's error only while the call waits for a connection. A deadline that passes
		// while a reply is awaited is os.ErrDeadlineExceeded, another one.
		return failure{ports.FailureDial, notRun, true}
	case isCertificateError(err):
		return failure{ports.FailureTLS, notRun, true} // found in the handshake, which comes first
	case !errors.Is(err, redis.Nil) && errors.As(err, &answer):
		return classifyAnswer(answer.Error())
	}
	return failure{kindOfConn(err), mayHaveRun, true}
}

func classifyAnswer(text string) failure {
	for _, a := range answers {
		if strings.HasPrefix(text, a.word) {
			return a.failure
		}
	}
	panic("redisstore: unreachable: the last of the answers begins every text")
}

func isDialError(err error) bool {
	var ours *dialError
	var op *net.OpError
	return errors.As(err, &ours) || errors.As(err, &op) && op.Op == "dial"
}

func kindOfDial(err error) ports.FailureKind {
	var answer redis.Error
	switch {
	case errors.As(err, &answer):
		return classifyAnswer(answer.Error()).kind // a sentinel's
	case errors.Is(err, syscall.ECONNREFUSED):
		return ports.FailureRefused
	case isTLSError(err):
		return ports.FailureTLS
	}
	return ports.FailureDial
}

// kindOfConn is for what goes wrong on a connection that was there.
func kindOfConn(err error) ports.FailureKind {
	var op *net.OpError
	var number syscall.Errno // without an operation around it where go-redis prepares a connection
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ports.FailureTimeout
	case isTLSError(err):
		return ports.FailureTLS
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &op),
		errors.As(err, &number):
		return ports.FailureClosed
	}
	return ports.FailureGarbled
}

func isCertificateError(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

func isTLSError(err error) bool {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return isCertificateError(err) || errors.As(err, &record) || errors.As(err, &alert)
}
