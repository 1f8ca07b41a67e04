package httpfiber

import (
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// buckets shows and resets one client's buckets: /v1/buckets/{policy}/{key}, with the key percent-encoded.
type buckets struct{ inspector ports.Inspector }

func (b *buckets) inspect(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	report, err := b.inspector.Inspect(c.UserContext(), id)
	if err != nil {
		return err
	}
	writeJSON(c.Context(), appendReport(nil, id.Key, &report))
	return nil
}

func (b *buckets) reset(c *fiber.Ctx) error {
	id, err := clientID(c)
	if err != nil {
		return err
	}
	if err := b.inspector.Reset(c.UserContext(), id); err != nil {
		return err
	}
	c.Context().SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// clientID reads the client from the path and the query.
func clientID(c *fiber.Ctx) (ports.ClientID, error) {
	policy, err := unescape(c, "policy")
	if err != nil {
		return ports.ClientID{}, err
	}
	key, err := unescape(c, "key")
	if err != nil {
		return ports.ClientID{}, err
	}
	source := string(c.Context().QueryArgs().Peek("source"))
	if _, err := domain.ParseKey(source); source != "" && err != nil {
		return ports.ClientID{}, &inputError{errOutOfRange, "source", "must be a key as in a policy file, or left out"}
	}
	return ports.ClientID{Policy: policy, Key: key, Source: source}, nil
}

func unescape(c *fiber.Ctx, name string) (string, error) {
	value, err := url.PathUnescape(strings.Clone(c.Params(name)))
	if err != nil {
		return "", &inputError{errMalformed, name, "is not percent-encoded correctly"}
	}
	return value, nil
}

func appendReport(dst []byte, key string, r *ports.BucketReport) []byte {
	dst = append(dst, `{"policy":`...)
	dst = appendString(dst, r.Policy)
	dst = append(dst, `,"source":`...)
	dst = appendString(dst, r.Source)
	dst = append(dst, `,"key":`...)
	dst = appendString(dst, key)
	dst = append(dst, `,"store":`...)
	dst = appendString(dst, string(r.Store))
	dst = append(dst, `,"now":`...)
	dst = appendInstant(dst, r.Now)
	dst = append(dst, `,"limits":[`...)
	for i := range r.Limits {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendBucket(dst, &r.Limits[i])
	}
	return append(dst, "]}"...)
}

// appendBucket writes a level in tokens. expires_at is when the bucket is full again: it need not be stored from
// then on.
func appendBucket(dst []byte, l *ports.BucketLevel) []byte {
	refill, per := l.Limit.Rate()
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, l.Limit.Name())
	dst = append(dst, `,"rate":`...)
	dst = appendString(dst, domain.FormatRate(refill, per))
	dst = append(dst, `,"limit":`...)
	dst = strconv.AppendInt(dst, int64(l.Limit.Capacity()), 10)
	dst = append(dst, `,"tokens":`...)
	dst = appendTokens(dst, l.Bucket)
	dst = append(dst, `,"updated_at":`...)
	dst = appendInstant(dst, l.Bucket.At)
	dst = append(dst, `,"expires_at":`...)
	dst = appendInstant(dst, l.Limit.FullAt(l.Bucket))
	return append(dst, '}')
}

// appendTokens writes credits as tokens with up to six decimals, rounded towards the poorer side.
func appendTokens(dst []byte, b domain.Bucket) []byte {
	const scale = 1_000_000
	if b.TokenCredits <= 0 {
		return append(dst, "null"...)
	}
	negative := b.Credits < 0
	level := uint64(max(b.Credits, -b.Credits))
	token := uint64(b.TokenCredits)
	whole := level / token
	hi, lo := bits.Mul64(level%token, scale)
	fraction, rest := bits.Div64(hi, lo, token)
	if negative {
		dst = append(dst, '-')
		if rest > 0 {
			if fraction++; fraction == scale {
				whole, fraction = whole+1, 0
			}
		}
	}
	dst = strconv.AppendUint(dst, whole, 10)
	if fraction == 0 {
		return dst
	}
	digits := strconv.AppendUint(nil, scale+fraction, 10)[1:] // with its leading zeros
	for digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return append(append(dst, '.'), digits...)
}

func appendInstant(dst []byte, i domain.Instant) []byte {
	dst = append(dst, '"')
	dst = i.Time().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}
