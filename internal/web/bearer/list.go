package bearer

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/velocity-limiter/velocity/internal/secret"
)

// DefaultName is the name of a token without one.
const DefaultName = "token"

// maxTokens bounds what a check costs: it compares with every token.
const maxTokens = 64

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// line is a token as it is written.
type line struct{ name, token string }

// Validate returns what is wrong with a list of tokens; the error does not show them. An empty list is valid. Each line is
// name:token, or a token alone, whose name is [DefaultName]; so a token without a name has no colon. A token is of visible ASCII
// characters (RFC 6750). A name matches [A-Za-z0-9._-]{1,64}, and several tokens may have the same. Empty lines do not count.
func Validate(list secret.Secret) error {
	if list == "" {
		return nil
	}
	_, err := parse(list)
	return err
}

// Single returns the list of a token alone, which may have colons.
func Single(token secret.Secret) secret.Secret {
	if strings.Contains(string(token), ":") {
		return DefaultName + ":" + token
	}
	return token
}

// First returns the first token of a list.
func First(list secret.Secret) (secret.Secret, error) {
	lines, err := parse(list)
	if err != nil {
		return "", err
	}
	return secret.Secret(lines[0].token), nil
}

// parse returns the tokens of a list, of which there is at least one.
func parse(list secret.Secret) ([]line, error) {
	var lines []line
	nameOf := make(map[string]string)
	number := 0
	for text := range strings.SplitSeq(string(list), "\n") {
		number++
		if text = strings.TrimSuffix(text, "\r"); text == "" {
			continue
		}
		l := line{DefaultName, text}
		if name, token, named := strings.Cut(text, ":"); named {
			l = line{name, token}
		}
		if err := l.check(nameOf); err != nil {
			if number > 1 || len(text) < len(list) {
				err = fmt.Errorf("line %d: %w", number, err)
			}
			return nil, err
		}
		nameOf[l.token] = l.name
		lines = append(lines, l)
	}
	switch {
	case len(lines) == 0:
		return nil, errors.New("has no token")
	case len(lines) > maxTokens:
		return nil, fmt.Errorf("has more than %d tokens", maxTokens)
	}
	return lines, nil
}

// check returns what is wrong with a token, given the names of those before it.
func (l line) check(nameOf map[string]string) error {
	before, twice := nameOf[l.token]
	switch {
	case !validName.MatchString(l.name):
		return errors.New("what is before the first colon is the token's name, and must match [A-Za-z0-9._-]{1,64}")
	case l.token == "":
		return errors.New("has a name without a token")
	case strings.ContainsFunc(l.token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return errors.New("must be of visible ASCII characters, without spaces")
	case twice && before != l.name:
		return errors.New("an earlier line has this token under another name")
	}
	return nil
}
