package httpfiber

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	maxChecks     = 1000
	maxAttributes = domain.MaxLimits
)

// check is one question of the decision API.
type check struct {
	policy, key string
	keyGiven    bool
	cost        domain.Tokens
	attributes  attributes
}

// attributes are the values of other keys that a policy's limits use.
type attributes struct {
	client netip.Addr
	values []attribute
}

type attribute struct {
	source domain.KeySource
	value  string
}

// noValue is the lookup of a check without attributes.
func noValue(domain.KeySource) (string, error) { return "", domain.ErrNoValue }

// lookup answers domain.Request.Lookup. Nothing stands in for a value that the caller has forgotten; one who knows that
// the client sent none says so, by an empty one.
func (a *attributes) lookup(source domain.KeySource) (string, error) {
	for i := range a.values {
		if a.values[i].source == source {
			return a.values[i].value, nil
		}
	}
	return "", domain.ErrNoValue
}

// bodyReader reads the bodies of the decision API token by token: every member is known, stands once and has its
// type, so nothing nests deeper than the grammar does, however the body nests.
type bodyReader struct {
	dec  *jsontext.Decoder
	body bytes.Buffer
	copy string // of the body, which lends its memory to the strings that are read
	at   int    // index of the check that is read, for error texts; -1: there is no list
}

var bodyReaders = sync.Pool{New: func() any { return &bodyReader{dec: jsontext.NewDecoder(new(bytes.Buffer))} }}

func newBodyReader(body []byte) *bodyReader {
	r := bodyReaders.Get().(*bodyReader)
	r.body, r.copy = *bytes.NewBuffer(body), string(body)
	r.dec.Reset(&r.body)
	r.at = -1
	return r
}

// release forgets the body, whose memory belongs to the request.
func (r *bodyReader) release() {
	r.body, r.copy = bytes.Buffer{}, ""
	r.dec.Reset(&r.body)
	bodyReaders.Put(r)
}

// parseCheck reads the body of /v1/check, /v1/refund and /v1/charge.
func parseCheck(body []byte) (check, error) {
	r := newBodyReader(body)
	defer r.release()
	c, err := r.check()
	if err != nil {
		return check{}, err
	}
	return c, r.end()
}

// parseChecks reads the body of /v1/checks, appending to dst.
func parseChecks(dst []check, body []byte) ([]check, error) {
	r := newBodyReader(body)
	defer r.release()
	found := false
	err := r.object("", func(name string) (err error) {
		if name != "checks" {
			return r.unknown(name)
		}
		found = true
		dst, err = r.checks(dst)
		return err
	})
	if err != nil {
		return dst, err
	}
	if !found {
		return dst, &inputError{errMalformed, "checks", "is missing"}
	}
	return dst, r.end()
}

func (r *bodyReader) checks(dst []check) ([]check, error) {
	if err := r.open('[', "checks", "an array"); err != nil {
		return dst, err
	}
	for r.at = 0; r.dec.PeekKind() != ']'; r.at++ {
		if r.at == maxChecks {
			return dst, &inputError{errOutOfRange, "checks", "holds more than " + strconv.Itoa(maxChecks)}
		}
		c, err := r.check()
		if err != nil {
			return dst, err
		}
		dst = append(dst, c)
	}
	r.at = -1
	_, err := r.dec.ReadToken()
	return dst, r.syntax(err)
}

func (r *bodyReader) check() (check, error) {
	c := check{policy: domain.DefaultPolicyName, cost: 1}
	err := r.object("", func(name string) (err error) {
		switch name {
		case "policy":
			c.policy, err = r.text(name)
		case "key":
			c.keyGiven = true
			c.key, err = r.text(name)
		case "cost":
			c.cost, err = r.integer(name)
		case "attributes":
			err = r.attributes(&c.attributes)
		default:
			err = r.unknown(name)
		}
		return err
	})
	return c, err
}

func (r *bodyReader) attributes(a *attributes) error {
	return r.object("attributes", func(name string) error {
		field := "attributes." + name
		value, err := r.text(field)
		if err != nil {
			return err
		}
		if name == "ip" {
			if a.client, err = netip.ParseAddr(value); err != nil {
				return r.wrong(errOutOfRange, field, "is no address")
			}
			return nil
		}
		source, err := domain.ParseKeySource(name)
		if err != nil || source.Name == "" {
			return r.wrong(errMalformed, field, "must be named ip, header:NAME, cookie:NAME or query:NAME")
		}
		for i := range a.values { // header names ignore case, so JSON's own check of repeated names is not enough
			if a.values[i].source == source {
				return r.wrong(errMalformed, field, "stands twice")
			}
		}
		if len(a.values) == maxAttributes {
			return r.wrong(errOutOfRange, "attributes", "holds more than "+strconv.Itoa(maxAttributes))
		}
		a.values = append(a.values, attribute{source, value})
		return nil
	})
}

// object reads an object and calls member when a member's value is next.
func (r *bodyReader) object(field string, member func(name string) error) error {
	if err := r.open('{', field, "an object"); err != nil {
		return err
	}
	for r.dec.PeekKind() != '}' {
		name, err := r.quoted()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return r.syntax(err)
}

func (r *bodyReader) open(kind jsontext.Kind, field, what string) error {
	if err := r.expect(kind, field, what); err != nil {
		return err
	}
	_, err := r.dec.ReadToken()
	return r.syntax(err)
}

// expect refuses a value of another kind before it is read.
func (r *bodyReader) expect(kind jsontext.Kind, field, what string) error {
	switch r.dec.PeekKind() {
	case kind:
		return nil
	case 0: // not JSON: reading says why
		_, err := r.dec.ReadToken()
		return r.syntax(err)
	default:
		return r.wrong(errMalformed, field, "must be "+what)
	}
}

func (r *bodyReader) text(field string) (string, error) {
	if err := r.expect('"', field, "a string"); err != nil {
		return "", err
	}
	return r.quoted()
}

// quoted reads a string. One without escapes, as nearly all are, takes no memory of its own. Where a member's name should
// stand and something else does, that is not read: it may nest.
func (r *bodyReader) quoted() (string, error) {
	if r.dec.PeekKind() != '"' {
		_, err := r.dec.ReadToken()
		return "", r.syntax(err)
	}
	raw, err := r.dec.ReadValue()
	if err != nil {
		return "", r.syntax(err)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		end := int(r.dec.InputOffset())
		return r.copy[end-len(raw)+1 : end-1], nil
	}
	unescaped, err := jsontext.AppendUnquote(nil, raw)
	return string(unescaped), r.syntax(err)
}

func (r *bodyReader) integer(field string) (domain.Tokens, error) {
	if err := r.expect('0', field, "a whole number"); err != nil {
		return 0, err
	}
	value, err := r.dec.ReadValue()
	if err != nil {
		return 0, r.syntax(err)
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, r.wrong(errOutOfRange, field, "must be at most "+strconv.FormatInt(int64(domain.MaxCost), 10))
	case err != nil:
		return 0, r.wrong(errMalformed, field, "must be a whole number, without fraction and exponent")
	}
	return domain.Tokens(n), nil
}

// end refuses anything after the value.
func (r *bodyReader) end() error {
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.wrong(errMalformed, "", "there is something after its end")
	}
	return nil
}

func (r *bodyReader) unknown(name string) error {
	return r.wrong(errMalformed, name, "is no known field")
}

// wrong names the field by its place in the body. Names of unknown length are cut.
func (r *bodyReader) wrong(kind error, field, reason string) error {
	const longest = 128
	if len(field) > longest {
		field = strings.ToValidUTF8(field[:longest], "") + "..."
	}
	switch {
	case r.at >= 0 && field == "":
		field = "checks[" + strconv.Itoa(r.at) + "]"
	case r.at >= 0:
		field = "checks[" + strconv.Itoa(r.at) + "]." + field
	case field == "":
		field = "body"
	}
	return &inputError{kind, field, reason}
}

// syntax translates the decoder's errors; nil stays nil.
func (r *bodyReader) syntax(err error) error {
	if err == nil {
		return nil
	}
	var bad *jsontext.SyntacticError // made here: it escapes
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &bad):
		return r.wrong(errMalformed, bad.JSONPointer.LastToken(), "stands twice")
	case errors.As(err, &bad) && !errors.Is(err, io.ErrUnexpectedEOF):
		return r.wrong(errMalformed, "", "is not JSON at byte "+strconv.FormatInt(bad.ByteOffset, 10))
	}
	return r.wrong(errMalformed, "", "is not JSON: it ends too early")
}
