// Package override holds what operators set for single clients at run time, and which of two changes wins.
//
// Every change of a client's override is an [Entry]. The newest entry of a client counts, wherever it comes from, so copies of
// the entries may be merged in any order and end up equal. The end of an override is an entry, too: it keeps older entries
// from coming back. A [Table] is such a copy, which decisions read without a lock.
package override

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

const (
	// KeptAfterEnd is how long the end of an override is remembered. A copy that was away for longer may bring back what has ended
	// meanwhile.
	KeptAfterEnd = 7 * 24 * time.Hour
	// expiredFor is how long an override stays as it is after it has expired: clocks differ a little.
	expiredFor = time.Minute
)

// Entry is one change of the override of a client.
type Entry struct {
	// Key names the policy, or the shared limit, and the client: it is the key of the client's buckets.
	Key clientkey.BucketKey
	// Version is the time of the change, by the clock of the store. Versions of one key grow strictly.
	Version domain.Instant
	// Ended entries say that the client has no override any more. They have no Value.
	Ended bool
	Value
}

// Value is what an operator set.
type Value struct {
	// Effect is what the override does, as [Effect.Text] writes it.
	Effect string
	// ExpiresAt is when the override ends; 0: never.
	ExpiresAt domain.Instant
	// Client is the value of the client's key, as clientkey.ListValue writes it.
	Client string
	// Note says why, for people.
	Note string
}

// Owner is the policy, or policy.SharedPrefix and the name of a shared limit.
func (e *Entry) Owner() string { return ownerOf(e.Key) }

func ownerOf(key clientkey.BucketKey) string {
	owner, _, _ := strings.Cut(string(key), ":")
	return owner
}

// Text writes all but the key, as stores keep it: "<version>:<1 if it has ended, else 0>:<expiry>:<length of the effect>:
// <length of the client>:<effect><client><note>". The version and the expiry are in microseconds.
func (e *Entry) Text() string {
	ended := int64(0)
	if e.Ended {
		ended = 1
	}
	b := make([]byte, 0, 48+len(e.Effect)+len(e.Client)+len(e.Note))
	for _, n := range []int64{int64(e.Version), ended, int64(e.ExpiresAt), int64(len(e.Effect)), int64(len(e.Client))} {
		b = append(strconv.AppendInt(b, n, 10), ':')
	}
	return string(append(append(append(b, e.Effect...), e.Client...), e.Note...))
}

// ParseEntry reads what [Entry.Text] wrote for this key. It refuses every other text.
func ParseEntry(key clientkey.BucketKey, text string) (Entry, error) {
	var numbers [5]int64
	rest := text
	for i := range numbers {
		number, after, found := strings.Cut(rest, ":")
		n, err := strconv.ParseInt(number, 10, 64)
		if !found || err != nil || n < 0 {
			return Entry{}, fmt.Errorf("the stored override of %q is not readable", key)
		}
		numbers[i], rest = n, after
	}
	effect, client := numbers[3], numbers[4]
	if numbers[1] > 1 || effect > int64(len(rest)) || client > int64(len(rest))-effect {
		return Entry{}, fmt.Errorf("the stored override of %q is not readable", key)
	}
	e := Entry{Key: key, Version: domain.Instant(numbers[0]), Ended: numbers[1] == 1, Value: Value{
		Effect: rest[:effect], ExpiresAt: domain.Instant(numbers[2]), Client: rest[effect : effect+client], Note: rest[effect+client:],
	}}
	if e.Ended && e.Value != (Value{}) || e.Text() != text { // the hashes of equal entries must be equal
		return Entry{}, fmt.Errorf("the stored override of %q is not readable", key)
	}
	return e, nil
}

// NewerThan reports whether e wins over another entry of its key: it has the higher version, or the same one and says that the
// override has ended. Two changes of one microsecond are ordered by their hashes, so every copy decides alike.
func (e *Entry) NewerThan(other *Entry) bool {
	switch {
	case e.Version != other.Version:
		return e.Version > other.Version
	case e.Ended != other.Ended:
		return e.Ended
	}
	return e.Hash() > other.Hash()
}

// HashBits is the size of [Entry.Hash]: the numbers of Lua are exact up to 53 bits.
const HashBits = 48

// Hash is the first 48 bits of the SHA-1 of the key, a newline and the text. The sum of the hashes of all entries, modulo 2^48,
// says whether two copies are equal. Operators alone make entries, so no collision is constructed.
func (e *Entry) Hash() uint64 {
	sum := sha1.Sum([]byte(string(e.Key) + "\n" + e.Text()))
	return binary.BigEndian.Uint64(sum[:]) >> (64 - HashBits)
}

// InForce reports whether the entry changes decisions at this time.
func (e *Entry) InForce(now domain.Instant) bool {
	return !e.Ended && (e.ExpiresAt == 0 || now < e.ExpiresAt)
}

// End returns the entry that says that e has expired. It has the version of e, so it never wins over a later change.
func (e *Entry) End() Entry { return Entry{Key: e.Key, Version: e.Version, Ended: true} }

// expired reports whether it is time to replace the entry by its End.
func (e *Entry) expired(now domain.Instant) bool {
	return !e.Ended && e.ExpiresAt != 0 && now.Sub(e.ExpiresAt) > expiredFor
}

// Forgotten reports whether the entry has ended so long ago that it need not be kept.
func (e *Entry) Forgotten(now domain.Instant) bool {
	return e.Ended && now.Sub(e.Version) > KeptAfterEnd
}
