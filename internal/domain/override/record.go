package override

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// record is one entry as a table holds it. It is immutable.
type record struct {
	terms   *Terms // nil if the override has ended
	key     clientkey.BucketKey
	version domain.Instant
	client  string // "" if the key implies it
	note    string
}

func newRecord(e *Entry, terms *Terms) *record {
	r := &record{terms: terms, key: clientkey.BucketKey(strings.Clone(string(e.Key))), version: e.Version, note: strings.Clone(e.Note)}
	if e.Client != implied(e.Key) {
		r.client = strings.Clone(e.Client)
	}
	return r
}

func (r *record) entry() Entry {
	e := Entry{Key: r.key, Version: r.version, Ended: r.terms == nil}
	if !e.Ended {
		e.Value = Value{
			Effect: r.terms.effect.text, ExpiresAt: r.terms.expiresAt, Client: cmp.Or(r.client, implied(r.key)), Note: r.note,
		}
	}
	return e
}

// ClientOf names the client of a key: as [Entry] does where the key implies that, else by the key without its owner.
func ClientOf(key clientkey.BucketKey) string {
	_, client, _ := strings.Cut(string(key), ":")
	return cmp.Or(implied(key), client)
}

// implied is the client that a key of one source names, or "" if the key does not hold it unchanged.
func implied(key clientkey.BucketKey) string {
	_, value, _ := strings.Cut(string(key), "=")
	if strings.Contains(value, "&") || strings.HasPrefix(value, "%sha256-") {
		return ""
	}
	if client, err := url.PathUnescape(value); err == nil {
		return client
	}
	return ""
}
