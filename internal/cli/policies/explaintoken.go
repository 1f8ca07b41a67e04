package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// writtenToken is the token of a request that was written on the command line, and the claims that were looked up in it. A nil
// writtenToken has none.
type writtenToken struct {
	jwtclaims.Checked
	used []usedClaim // each once, in the order of their first use
}

// usedClaim is a claim that was looked up. says has its value, if it has one.
type usedClaim struct {
	source   clientkey.Source
	hasValue bool
	says     string
}

// verify verifies the token of the request by rules, which are those of the policy file. Keys are read only if there is a token to
// verify.
func (e *explainFlags) verify(ctx context.Context, r *writtenRequest, rules *token.Rules) (*writtenToken, error) {
	if rules == nil {
		if e.token != "" {
			return nil, command.UsageError{Err: fmt.Errorf("-jwt: %s has no section jwt, which says by which keys tokens are verified", e.file)}
		}
		return nil, nil
	}
	name := cmp.Or(rules.Header, token.DefaultHeader)
	if e.token != "" {
		text, err := textOrFile(e.token)
		if err != nil {
			return nil, err
		}
		r.header.Add(name, "Bearer "+text)
	}
	if len(r.header.Values(name)) == 0 {
		return nil, nil
	}
	checked, err := jwtclaims.CheckOnce(ctx, rules, tokenHeader(r.header))
	if err != nil {
		return nil, err
	}
	if !checked.Present {
		return nil, nil
	}
	r.tokens = &writtenToken{Checked: checked}
	return r.tokens, nil
}

// textOrFile returns a text, or the content of a file if the text is @ and the file's name.
func textOrFile(s string) (string, error) {
	path, isFile := strings.CutPrefix(s, "@")
	if !isFile {
		return strings.TrimSpace(s), nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("-jwt: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, 2*jwtclaims.MaxToken))
	text := strings.TrimSpace(string(data))
	if err == nil && text == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return "", fmt.Errorf("-jwt: %s: %w", path, err)
	}
	return text, nil
}

// tokenHeader is a header as jwtclaims reads it.
type tokenHeader http.Header

// Values implements keyvalue.Header.
func (h tokenHeader) Values(name string) (first string, lines int) {
	values := http.Header(h).Values(name)
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

// Cookies implements keyvalue.Header. No token is in a cookie.
func (tokenHeader) Cookies(string) (first string, cookies int) { return "", 0 }

// claim returns a claim of the token, and records its use.
func (t *writtenToken) claim(source clientkey.Source) string {
	if t == nil {
		return ""
	}
	text := ""
	if t.Claims != nil {
		text = t.Claims.Text(source.Name)
	}
	switch elements := t.elementsOf(source); {
	case text != "":
		t.use(usedClaim{source, true, " = " + strconv.Quote(text)})
	case elements != nil:
		t.use(usedClaim{source, false, " = an array, which fits conditions and is no key"})
	case t.Claims != nil:
		t.use(usedClaim{source, false, " is not in the token"})
	}
	return text
}

// elements returns the elements of a claim that is an array, and records their use.
func (t *writtenToken) elements(source clientkey.Source) []string {
	if t == nil {
		return nil
	}
	elements := t.elementsOf(source)
	if elements != nil {
		t.use(usedClaim{source, true, " has " + someOf(elements)})
	}
	return elements
}

func (t *writtenToken) elementsOf(source clientkey.Source) []string {
	if t.Claims == nil {
		return nil
	}
	return t.Claims.Elements(source.Name)
}

func (t *writtenToken) use(claim usedClaim) {
	if !slices.Contains(t.used, claim) {
		t.used = append(t.used, claim)
	}
}

// print says whether the token is believed and which claims were used. It prints neither the token nor values that are secret under the
// policy that applies.
func (t *writtenToken) print(w io.Writer, applies *policy.Policy) {
	if t == nil {
		return
	}
	about := ""
	if t.Algorithm != "" {
		about += ", " + t.Algorithm
	}
	if t.KeyID != "" {
		about += ", key " + strconv.Quote(t.KeyID)
	}
	if !t.Expires.IsZero() {
		about += ", expires " + t.Expires.UTC().Format(time.RFC3339)
	}
	about = strings.TrimPrefix(about, ", ")
	if t.Claims == nil {
		_, _ = fmt.Fprintf(w, "\ntoken: rejected (%s), so the request has no claims: %s\n", t.Reason, t.Reason.Meaning())
		if about != "" {
			_, _ = fmt.Fprintf(w, "  %s\n", about)
		}
		return
	}
	_, _ = fmt.Fprintf(w, "\ntoken: verified: %s\n", about)
	for _, claim := range t.used {
		if claim.hasValue && applies.IsSecret(claim.source) {
			claim.says = " is in the token, and secret"
		}
		_, _ = fmt.Fprintf(w, "  %s%s\n", claim.source, claim.says)
	}
}
