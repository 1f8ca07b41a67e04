// Package failure says what an error of a Redis server, or of the connection to it, means: its kind, what the call may have
// done, and whether the server is down.
package failure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// ErrMayHaveRun is the effect of a call that the server may have carried out as a whole: perhaps only its answer was lost.
var ErrMayHaveRun = errors.New("may have been carried out")

// Failure is what an error means.
type Failure struct {
	Kind Kind
	// Effect is what the call may have done at its server: ports.ErrNotRun, if the server refused the script or was not reached, or
	// ErrMayHaveRun.
	Effect error
	// Trips reports whether the failure counts for the circuit breaker: the server cannot decide.
	Trips bool
}

// EmptiedWhileMoving are the words, after "ERR ", by which a node of a Cluster refuses a command in the script, because the script has just
// deleted the command's key, and its slot is moving. Nothing was done then for the group of that command.
const EmptiedWhileMoving = "Script attempted to access a non local key"

// replies maps the first words of a server's error reply to its meaning; the first entry that fits counts. A server
// refuses a script that starts with "#!lua" before it starts, so most entries say that nothing has run.
var replies = []struct {
	prefix string
	Failure
}{
	{"NOSCRIPT", Failure{NoScript, ports.ErrNotRun, false}},
	{"MOVED", Failure{Moved, ports.ErrNotRun, false}},
	{"ASK", Failure{Moved, ports.ErrNotRun, false}},
	{"TRYAGAIN", Failure{Moved, ports.ErrNotRun, false}},
	{"ERR " + EmptiedWhileMoving, Failure{Moved, ports.ErrNotRun, false}},
	{"CROSSSLOT", Failure{CrossSlot, ports.ErrNotRun, false}},
	{"WRONGTYPE", Failure{WrongType, ports.ErrNotRun, false}},
	{"CORRUPT", Failure{Corrupt, ports.ErrNotRun, false}},
	{"PERIOD", Failure{Period, ports.ErrNotRun, false}},

	{"BUSY", Failure{Busy, ports.ErrNotRun, true}},
	{"OOM", Failure{OOM, ports.ErrNotRun, true}},
	{"READONLY", Failure{ReadOnly, ports.ErrNotRun, true}},
	{"MASTERDOWN", Failure{MasterDown, ports.ErrNotRun, true}},
	{"NOREPLICAS", Failure{NoReplicas, ports.ErrNotRun, true}},
	{"MISCONF", Failure{Misconf, ports.ErrNotRun, true}},
	{"LOADING", Failure{Loading, ports.ErrNotRun, true}},
	{"CLUSTERDOWN", Failure{ClusterDown, ports.ErrNotRun, true}},
	{"NOAUTH", Failure{Auth, ports.ErrNotRun, true}},
	// Before it knows the password, a server does not read commands of more than ten words.
	{"ERR Protocol error: unauthenticated ", Failure{Auth, ports.ErrNotRun, true}},
	{"WRONGPASS", Failure{Auth, ports.ErrNotRun, true}},
	// Redis says these of a command inside the script, so commands before it may have run.
	{"NOPERM ACL failure in script", Failure{NoPerm, ErrMayHaveRun, true}},
	{"ERR The user executing the script can't", Failure{NoPerm, ErrMayHaveRun, true}},
	{"NOPERM", Failure{NoPerm, ports.ErrNotRun, true}},
	{"ERR max number of clients reached", Failure{MaxClients, ports.ErrNotRun, true}},
	{"DENIED", Failure{Protected, ports.ErrNotRun, true}},
	{"ERR this script ", Failure{Script, ports.ErrNotRun, true}},
	{"", Failure{Script, ErrMayHaveRun, true}},
}

// Refuses reports whether a server's first reply on a connection is that it does not serve it. It has read nothing then.
func Refuses(reply string) bool {
	return strings.HasPrefix(reply, "-DENIED ") || strings.HasPrefix(reply, "-ERR max number of clients")
}

// ScriptError is the error that the script, or a command in it, returned for one group.
type ScriptError string

func (e ScriptError) Error() string { return string(e) }

// RedisError marks e as a server's reply, as go-redis marks the error replies to whole commands.
func (ScriptError) RedisError() {}

// DialError is a failure to connect, so nothing was sent.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// PanicError stands for a panic of this program while a server was asked.
type PanicError struct {
	Reason any    // what the code panicked with
	Stack  []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("a panic: %v", e.Reason) }

// Classify returns the meaning of an error of go-redis or of the script.
func Classify(err error) Failure {
	var reply redis.Error
	var panicked *PanicError
	switch {
	case errors.As(err, &panicked):
		return Failure{Panic, ErrMayHaveRun, false} // it says nothing about the server
	case errors.Is(err, redis.ErrClosed):
		return Failure{Shutdown, ports.ErrNotRun, false}
	case isDialError(err):
		return Failure{kindOfDial(err), ports.ErrNotRun, true}
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return Failure{Pool, ports.ErrNotRun, true}
	case errors.Is(err, context.Canceled):
		return Failure{Cancelled, ports.ErrNotRun, false}
	case errors.Is(err, context.DeadlineExceeded):
		// go-redis returns the context's error only while the call waits for a connection. A deadline that passes
		// while a reply is awaited is os.ErrDeadlineExceeded, another error.
		return Failure{Dial, ports.ErrNotRun, true}
	case isCertificateError(err):
		return Failure{TLS, ports.ErrNotRun, true} // found in the handshake, which comes first
	case !errors.Is(err, redis.Nil) && errors.As(err, &reply):
		return classifyReply(reply.Error())
	}
	return Failure{kindOfConn(err), ErrMayHaveRun, true}
}

func classifyReply(text string) Failure {
	for _, r := range replies {
		if strings.HasPrefix(text, r.prefix) {
			return r.Failure
		}
	}
	panic("failure: unreachable: the last prefix is empty")
}

func isDialError(err error) bool {
	var ours *DialError
	var op *net.OpError
	return errors.As(err, &ours) || errors.As(err, &op) && op.Op == "dial"
}

func kindOfDial(err error) Kind {
	var reply redis.Error
	switch {
	case errors.As(err, &reply):
		return classifyReply(reply.Error()).Kind // a sentinel's
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case isTLSError(err):
		return TLS
	}
	return Dial
}

// kindOfConn returns the kind of a failure on an established connection.
func kindOfConn(err error) Kind {
	var op *net.OpError
	var number syscall.Errno // without an operation around it where go-redis prepares a connection
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case isTLSError(err):
		return TLS
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &op),
		errors.As(err, &number):
		return Closed
	}
	return Garbled
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

// Kind is the kind of a failure: a bounded set, for metrics and for advice to operators.
type Kind string

// The kinds of failures.
const (
	Refused     Kind = "refused"     // nothing listens at the address
	Dial        Kind = "dial"        // connecting failed in another way, or took too long
	TLS         Kind = "tls"         // the TLS handshake failed
	Pool        Kind = "pool"        // no connection became free
	Timeout     Kind = "timeout"     // no answer in time
	Closed      Kind = "closed"      // the connection ended before the answer
	Garbled     Kind = "garbled"     // the answer cannot be parsed
	Cancelled   Kind = "cancelled"   // the caller has gone
	Shutdown    Kind = "shutdown"    // the store was closed
	Auth        Kind = "auth"        // NOAUTH, WRONGPASS
	NoPerm      Kind = "noperm"      // the ACL lacks a command or a key
	MaxClients  Kind = "maxclients"  // the server has too many connections
	Protected   Kind = "protected"   // the server is in protected mode: it answers its own host only
	Loading     Kind = "loading"     // the server reads its data
	Busy        Kind = "busy"        // another script blocks the server
	OOM         Kind = "oom"         // the server's memory is full
	ReadOnly    Kind = "readonly"    // the server is a replica
	MasterDown  Kind = "masterdown"  // the server is a replica that has lost its primary
	NoReplicas  Kind = "noreplicas"  // the server is a primary with too few replicas
	Misconf     Kind = "misconf"     // the server cannot save its data
	ClusterDown Kind = "clusterdown" // a part of the cluster is missing
	Moved       Kind = "moved"       // MOVED, ASK: redirected too often; TRYAGAIN, or "non local key": not all of the keys are there
	CrossSlot   Kind = "crossslot"   // a bug of this program: a batch of keys of several slots
	NoScript    Kind = "noscript"    // the server does not keep the script that it was just sent
	Script      Kind = "script"      // any other error that a server answered
	Panic       Kind = "panic"       // a bug of this program, or of its Redis client: it panicked
	WrongType   Kind = "wrongtype"   // a key of this program holds another type
	Corrupt     Kind = "corrupt"     // a key of this program does not hold a bucket
	Period      Kind = "period"      // the server's clock jumps, from one period of a quota into another
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		Refused, Dial, TLS, Pool, Timeout, Closed, Garbled, Cancelled, Shutdown, Auth, NoPerm, MaxClients, Protected, Loading, Busy,
		OOM, ReadOnly, MasterDown, NoReplicas, Misconf, ClusterDown, Moved, CrossSlot, NoScript, Script, Panic, WrongType, Corrupt,
		Period,
	}
}
