package decisionapi

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

const (
	maxChecks     = 1000
	maxAttributes = policy.MaxLimits
	// maxCheck is the length of the longest check, alone or among others.
	maxCheck = 64 << 10
	// maxTakenAt is the largest number that every JSON library reads exactly (RFC 8259, section 6), a time in the year 2255.
	maxTakenAt = 1<<53 - 1
	maxWaitMS  = int64(policy.MaxMaxWait / time.Millisecond)
)

// check is one check in a body. client and attributes are values of other keys, which limits of the policy may use.
type check struct {
	policy, key string
	cost        domain.Tokens
	takenAt     domain.Instant
	maxWaitMS   int64
	client      netip.Addr
	attributes  attributes
	given       givenFields
	invalid     error // what is wrong with one of several checks; the limiter is not asked
}

// givenFields are the members that a check has.
type givenFields struct{ policy, key, cost, takenAt, maxWait, attributes bool }

type attributes []attribute

type attribute struct {
	source clientkey.Source
	value  string
}

// lookup implements policy.Request.Lookup. A value that the caller left out is an error, and no fallback applies. A caller
// whose client sent no value gives an empty one.
func (list attributes) lookup(source clientkey.Source) (string, error) {
	for i := range list {
		if list[i].source == source {
			return list[i].value, nil
		}
	}
	return "", domain.ErrNoValue
}

// noValue is the lookup of a check without attributes.
var noValue = attributes(nil).lookup

// parseCheck reads the body of /v1/check, /v1/refund or /v1/charge.
func parseCheck(body []byte, op domain.Op) (c check, err error) {
	err = parse(body, func(d *decoder) error { return c.read(d, op) })
	return c, err
}

// parseChecks reads the body of /v1/checks, appending to dst. A check that is wrong does not fail the others: it says so in
// its member invalid.
func parseChecks(dst []check, body []byte) ([]check, error) {
	given := false
	err := parse(body, func(d *decoder) error {
		return d.each('{', "an object", func(name string) error {
			if name != "checks" {
				return d.wrong(problem.ErrMalformed, "is not a known field")
			}
			if err := d.once(&given); err != nil {
				return err
			}
			return d.each('[', "an array", func(string) error {
				n := len(dst)
				if n == maxChecks {
					return problem.Input(problem.ErrOutOfRange, "checks", "holds more than "+strconv.Itoa(maxChecks))
				}
				dst = append(dst, check{})
				return dst[n].readOneOf(d, n)
			})
		})
	})
	if err == nil && !given {
		err = problem.Input(problem.ErrMalformed, "checks", "is missing")
	}
	return dst, err
}

// readOneOf reads the n-th element of an array of checks, to its end. Its error is that the array is no JSON.
func (c *check) readOneOf(d *decoder, n int) error {
	depth, start := d.StackDepth(), d.InputOffset()
	if err := c.read(d, domain.OpTake); err != nil {
		if _, refused := errors.AsType[*problem.InputError](err); !refused {
			return err
		}
		if err := d.skipElement(depth, n); err != nil {
			return err
		}
		*c = check{invalid: err}
	}
	comma := min(n, 1)
	if d.InputOffset()-start-int64(comma) > maxCheck {
		*c = check{invalid: &domain.FieldError{
			Kind: problem.ErrTooLarge, Field: "check", Reason: "must be at most " + strconv.Itoa(maxCheck) + " bytes",
		}}
	}
	return nil
}

func (c *check) read(d *decoder, op domain.Op) error {
	*c = check{policy: policy.DefaultName, cost: 1}
	return d.each('{', "an object", func(name string) (err error) {
		switch {
		case name == "policy":
			if err = d.once(&c.given.policy); err == nil {
				c.policy, err = d.text()
			}
		case name == "key":
			if err = d.once(&c.given.key); err == nil {
				c.key, err = d.text()
			}
		case name == "cost":
			if err = d.once(&c.given.cost); err == nil {
				var n int64
				n, err = d.integer(int64(domain.MaxCost))
				c.cost = domain.Tokens(n)
			}
		case name == "taken_at_us" && op != domain.OpTake:
			if err = d.once(&c.given.takenAt); err == nil {
				var n int64
				n, err = d.integer(maxTakenAt)
				c.takenAt = domain.Instant(n)
			}
		case name == "max_wait_ms" && op == domain.OpTake:
			if err = d.once(&c.given.maxWait); err == nil {
				c.maxWaitMS, err = d.integer(maxWaitMS)
			}
		case name == "attributes":
			if err = d.once(&c.given.attributes); err == nil {
				err = d.each('{', "an object", func(name string) error { return c.readAttribute(d, name) })
			}
		default:
			err = d.wrong(problem.ErrMalformed, "is not a known field")
		}
		return err
	})
}

func (c *check) readAttribute(d *decoder, name string) error {
	value, err := d.text()
	if err != nil {
		return err
	}
	if name == "ip" {
		if c.client.IsValid() {
			return d.wrong(problem.ErrMalformed, "is repeated")
		}
		if c.client, err = netip.ParseAddr(value); err != nil {
			return d.wrong(problem.ErrOutOfRange, "is no address")
		}
		return nil
	}
	source, err := clientkey.ParseSource(name)
	switch {
	case err != nil || source.Name == "":
		return d.wrong(problem.ErrMalformed, "must be named ip, header:NAME, cookie:NAME, query:NAME or claim:NAME")
	case slices.ContainsFunc(c.attributes, func(a attribute) bool { return a.source == source }):
		return d.wrong(problem.ErrMalformed, "is repeated")
	case len(c.attributes) == maxAttributes:
		return problem.Input(problem.ErrOutOfRange, fieldOf(d.StackPointer().Parent()), "holds more than "+strconv.Itoa(maxAttributes))
	}
	c.attributes = append(c.attributes, attribute{source, value})
	return nil
}

// decoder reads a body value by value, so that nothing nests deeper than the known members do. Later bodies use it again. It
// allows repeated names and text that is not UTF-8, which would end an array of checks: its methods refuse them where they are.
type decoder struct {
	*jsontext.Decoder
	body bytes.Buffer
}

var decoders = sync.Pool{New: func() any { return &decoder{Decoder: jsontext.NewDecoder(new(bytes.Buffer))} }}

// parse reads a body that is one value, by read. It translates the errors of package jsontext.
func parse(body []byte, read func(*decoder) error) error {
	d := decoders.Get().(*decoder)
	d.body = *bytes.NewBuffer(bytes.Clone(body)) // the Decoder does not copy what a bytes.Buffer holds
	d.Reset(&d.body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	err := read(d)
	syntactic, ok := errors.AsType[*jsontext.SyntacticError](err)
	reason := ""
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		reason = "is not JSON: it ends too early"
	case ok:
		reason = "is not JSON at byte " + strconv.FormatInt(syntactic.ByteOffset, 10)
	case err == nil:
		if _, end := d.ReadToken(); !errors.Is(end, io.EOF) || errors.Is(end, io.ErrUnexpectedEOF) {
			reason = "there is something after its end"
		}
	}
	if reason != "" {
		err = problem.Input(problem.ErrMalformed, "body", reason)
	}
	d.body = bytes.Buffer{}
	d.Reset(&d.body)
	decoders.Put(d)
	return err
}

// each reads an object or an array, and calls next when the value of a member, or an element, is next.
func (d *decoder) each(kind jsontext.Kind, what string, next func(name string) error) error {
	_, err := d.begin(kind, what)
	for err == nil && (d.PeekKind() == '"' || kind == '[' && d.PeekKind() != ']') {
		name := ""
		if kind == '{' {
			name, err = d.text()
		}
		if err == nil {
			err = next(name)
		}
	}
	if err == nil {
		_, err = d.ReadToken()
	}
	return err
}

// once refuses a member whose name has been read before.
func (d *decoder) once(given *bool) error {
	if *given {
		return d.wrong(problem.ErrMalformed, "is repeated")
	}
	*given = true
	return nil
}

// skipElement reads on to the end of the n-th element of the array at depth, of which a part may have been read.
func (d *decoder) skipElement(depth, n int) error {
	for d.StackDepth() > depth {
		var err error
		switch d.PeekKind() {
		case '}', ']':
			_, err = d.ReadToken()
		default:
			err = d.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	if _, read := d.StackIndex(depth); read > int64(n) {
		return nil
	}
	return d.SkipValue()
}

// begin reads the next value, or only the token that opens it if it is an object or an array. It returns an error if the
// value is of another kind. What is not JSON has no kind: reading it fails.
func (d *decoder) begin(kind jsontext.Kind, what string) (raw jsontext.Value, err error) {
	switch found := d.PeekKind(); {
	case found != kind && found != jsontext.KindInvalid:
		return nil, d.wrong(problem.ErrMalformed, "must be "+what)
	case kind == '{', kind == '[':
		_, err = d.ReadToken()
		return nil, err
	}
	return d.ReadValue()
}

// text reads a string. It shares the memory of the copy of the body, to which nothing is written, unless it has escapes. Text
// that is not UTF-8 is refused: different bytes would be read as the same text.
func (d *decoder) text() (string, error) {
	raw, err := d.begin('"', "a string")
	switch {
	case err != nil:
		return "", err
	case !utf8.Valid(raw):
		return "", d.wrong(problem.ErrMalformed, "is not UTF-8")
	case bytes.IndexByte(raw, '\\') < 0:
		return utils.UnsafeString(raw[1 : len(raw)-1]), nil
	}
	unquoted, err := jsontext.AppendUnquote(nil, raw)
	if err != nil { // the decoder has read it, so it is half of a surrogate pair
		return "", d.wrong(problem.ErrMalformed, "has half of a surrogate pair")
	}
	return string(unquoted), nil
}

// integer reads a number. most is what the error names if the number is too long; smaller ones are not compared with it.
func (d *decoder) integer(most int64) (int64, error) {
	raw, err := d.begin('0', "a whole number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(utils.UnsafeString(raw), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		err = d.wrong(problem.ErrOutOfRange, "must be at most "+strconv.FormatInt(most, 10))
	case err != nil:
		err = d.wrong(problem.ErrMalformed, "must be a whole number, without fraction and exponent")
	}
	return n, err
}

// wrong returns an error about the next value or, after the name of a member, about that member.
func (d *decoder) wrong(kind error, reason string) error {
	at := d.StackPointer()
	if in, n := d.StackIndex(d.StackDepth()); in == '[' {
		if n > 0 {
			at = at.Parent() // it points to the element before
		}
		at = at.AppendToken(strconv.FormatInt(n, 10))
	}
	return problem.Input(kind, fieldOf(at), reason)
}

// fieldOf writes a place in a check, or else in the body, as clients know it, such as attributes.ip. Long names are cut.
func fieldOf(at jsontext.Pointer) string {
	const longest = 128
	names, whole := slices.Collect(at.Tokens()), "body"
	if len(names) > 1 && names[0] == "checks" {
		names, whole = names[2:], "check"
	}
	field := strings.Join(names, ".")
	if len(field) > longest {
		return strings.ToValidUTF8(field[:longest], "") + "..."
	}
	return cmp.Or(field, whole)
}
