package overridejson

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// The JSON of a new override. A pointer is nil if the member is not there.
type (
	written struct {
		Limits    []writtenLimit `json:"limits"`
		Exempt    bool           `json:"exempt"`
		Block     bool           `json:"block"`
		ExpiresAt *string        `json:"expires_at"`
		Note      string         `json:"note"`
	}
	writtenLimit struct {
		Name       *string        `json:"name"`
		Rate       *string        `json:"rate"`
		Capacity   *domain.Tokens `json:"capacity"`
		Quota      *string        `json:"quota"`
		Zone       *string        `json:"zone"`
		Anchor     *string        `json:"anchor"`
		Concurrent *domain.Tokens `json:"concurrent"`
		Lease      *string        `json:"lease"`
		Cost       *domain.Tokens `json:"cost"`
	}
)

// Parse reads a new override. What its limits say is not compared with those of a policy, and a limit may have no name. The error is a *problem.InputError that
// names the member: problem.ErrMalformed for what is not such an object, with members that are unknown, repeated or null, and
// problem.ErrOutOfRange for a value that no override can have, such as an expires_at that is not after now.
func Parse(body []byte, now time.Time) (ports.Override, error) {
	var w written
	if err := refuseNull(body); err != nil {
		return ports.Override{}, err
	}
	if err := json.Unmarshal(body, &w, json.RejectUnknownMembers(true)); err != nil {
		return ports.Override{}, malformed(err)
	}
	o := ports.Override{Exempt: w.Exempt, Block: w.Block, Note: w.Note}
	err := errors.Join(w.checkKind(), w.readExpiry(&o, now))
	if err != nil {
		return ports.Override{}, first(err)
	}
	for i := range w.Limits {
		spec, err := w.Limits[i].spec("limits[" + strconv.Itoa(i) + "].")
		if err != nil {
			return ports.Override{}, err
		}
		o.Limits = append(o.Limits, spec)
	}
	return o, nil
}

// first returns the first of the errors that err joins.
func first(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}

const oneOf = "an override has limits, or exempt, or block"

// checkKind checks that there is exactly one of limits, exempt and block.
func (w *written) checkKind() error {
	switch {
	case w.Exempt && w.Block:
		return problem.Input(problem.ErrOutOfRange, "block", "there is exempt, too: "+oneOf)
	case (w.Exempt || w.Block) && len(w.Limits) > 0:
		return problem.Input(problem.ErrOutOfRange, "limits", "there is exempt or block, too: "+oneOf)
	case !w.Exempt && !w.Block && len(w.Limits) == 0:
		return problem.Input(problem.ErrOutOfRange, "limits", "there is none: "+oneOf)
	case len(w.Limits) > policy.MaxLimits:
		return problem.Input(problem.ErrOutOfRange, "limits", "holds more than "+strconv.Itoa(policy.MaxLimits))
	}
	return nil
}

func (w *written) readExpiry(o *ports.Override, now time.Time) error {
	if w.ExpiresAt == nil {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, *w.ExpiresAt)
	switch {
	case err != nil:
		return problem.Input(problem.ErrMalformed, "expires_at", "must be a time of RFC 3339, as in 2027-01-31T00:00:00Z")
	case !at.After(now):
		return problem.Input(problem.ErrOutOfRange, "expires_at", "has passed")
	}
	o.ExpiresAt = at.UTC()
	return nil
}

// spec refuses a text that is empty and a number below 1: in a Spec they say nothing. in is where the limit is.
func (l *writtenLimit) spec(in string) (s limitspec.Spec, err error) {
	for _, field := range []struct {
		name    string
		written *string
		into    *string
	}{
		{"name", l.Name, &s.Name},
		{"rate", l.Rate, &s.Rate},
		{"quota", l.Quota, &s.Quota},
		{"zone", l.Zone, &s.Zone},
		{"anchor", l.Anchor, &s.Anchor},
		{"lease", l.Lease, &s.Lease},
	} {
		if field.written == nil {
			continue
		}
		if *field.into = *field.written; *field.into == "" {
			return s, problem.Input(problem.ErrOutOfRange, in+field.name, "must not be empty")
		}
	}
	for _, field := range []struct {
		name    string
		written *domain.Tokens
		into    *domain.Tokens
	}{{"capacity", l.Capacity, &s.Capacity}, {"concurrent", l.Concurrent, &s.Concurrent}, {"cost", l.Cost, &s.Cost}} {
		if field.written == nil {
			continue
		}
		if *field.into = *field.written; *field.into < 1 {
			return s, problem.Input(problem.ErrOutOfRange, in+field.name, "must be at least 1")
		}
	}
	return s, nil
}

// refuseNull refuses null in any place: it would be read as if the member were not there. It also finds what is not JSON.
func refuseNull(body []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	for {
		token, err := d.ReadToken()
		switch {
		case errors.Is(err, io.EOF) && d.StackDepth() == 0 && d.InputOffset() > 0:
			return nil
		case err != nil:
			return malformed(err)
		case token.Kind() == 'n':
			return problem.Input(problem.ErrMalformed, fieldOf(d.StackPointer()), "must not be null")
		}
	}
}

// malformed translates an error of the packages json and jsontext.
func malformed(err error) error {
	syntactic, isSyntactic := errors.AsType[*jsontext.SyntacticError](err)
	semantic, isSemantic := errors.AsType[*json.SemanticError](err)
	switch {
	case isSyntactic && errors.Is(err, jsontext.ErrDuplicateName):
		return problem.Input(problem.ErrMalformed, fieldOf(syntactic.JSONPointer), "is repeated")
	case isSyntactic && !errors.Is(err, io.ErrUnexpectedEOF):
		return problem.Input(problem.ErrMalformed, "body", "is not JSON at byte "+strconv.FormatInt(syntactic.ByteOffset, 10))
	case !isSemantic:
		return problem.Input(problem.ErrMalformed, "body", "is not JSON: it ends too early")
	case errors.Is(err, json.ErrUnknownName):
		return problem.Input(problem.ErrMalformed, fieldOf(semantic.JSONPointer), "is not a known field")
	case errors.Is(err, strconv.ErrRange):
		return problem.Input(problem.ErrOutOfRange, fieldOf(semantic.JSONPointer), "must be at most "+strconv.FormatInt(int64(domain.MaxTokens), 10))
	}
	return problem.Input(problem.ErrMalformed, fieldOf(semantic.JSONPointer), "must be "+kindOf(semantic.GoType))
}

// kindOf is the JSON that is read into a Go type.
func kindOf(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "an array"
	case reflect.Struct:
		return "an object"
	case reflect.Bool:
		return "true or false"
	case reflect.Int64:
		return "a whole number, without fraction and exponent"
	default:
		return "a string"
	}
}

// fieldOf writes a place in the body as clients know it, such as limits[0].rate. Long names are cut.
func fieldOf(at jsontext.Pointer) string {
	const longest = 128
	var field strings.Builder
	for name := range at.Tokens() {
		_, err := strconv.ParseUint(name, 10, 64)
		switch {
		case err == nil:
			field.WriteString("[" + name + "]")
		case field.Len() > 0:
			field.WriteString("." + name)
		default:
			field.WriteString(name)
		}
	}
	switch text := field.String(); {
	case text == "":
		return "body"
	case len(text) > longest:
		return strings.ToValidUTF8(text[:longest], "") + "..."
	default:
		return text
	}
}
