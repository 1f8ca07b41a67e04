package policyfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Error is one error in a file.
type Error struct {
	// Line and Column of the wrong value, from 1. For a missing value they are those of the mapping.
	Line, Column int
	// Field is the path of the value, such as "policies[0].limits[1].rate". Empty for the whole file.
	Field string
	// Value found, quoted and cut to be shown; empty if there is none.
	Value string
	// Reason says what the value must be.
	Reason string
}

// Error implements error: "12:7: policies[0].limits[1].rate: "5/x": must be ...".
func (e *Error) Error() string {
	text := fmt.Sprintf("%d:%d: ", e.Line, e.Column)
	for _, part := range []string{e.Field, e.Value} {
		if part != "" {
			text += part + ": "
		}
	}
	return text + e.Reason
}

// Unwrap returns domain.ErrInvalidPolicy.
func (e *Error) Unwrap() error { return domain.ErrInvalidPolicy }

// Errors are all errors in a file, in the order of their lines.
type Errors []*Error

// Error implements error. It returns one line for each error.
func (e Errors) Error() string { return strings.Join(e.lines(), "\n") }

func (e Errors) lines() []string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return lines
}

// Unwrap returns the errors.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i := range e {
		errs[i] = e[i]
	}
	return errs
}

// WithPath returns err with the path of the file before each of its [Errors], as in policies.yaml:3:5. An error of
// another kind, such as that of a missing file, names the path already and is returned as it is.
func WithPath(path string, err error) error {
	wrong, ok := errors.AsType[Errors](err)
	if !ok {
		return err
	}
	lines := make([]error, len(wrong))
	for i, e := range wrong {
		lines[i] = fmt.Errorf("%s:%w", path, e)
	}
	return errors.Join(lines...)
}

// maxErrors is how many errors are reported.
const maxErrors = 100

// sorted sorts the errors by line and column, and cuts them to maxErrors.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if more := len(e) - maxErrors; more > 0 {
		last := e[maxErrors-1]
		e = append(e[:maxErrors:maxErrors], &Error{
			Line: last.Line, Column: last.Column, Reason: "and " + strconv.Itoa(more) + " more errors",
		})
	}
	return e
}

// longestShown is how many bytes of a value an error shows.
const longestShown = 64

// shown quotes a value, and cuts it to longestShown.
func shown(s string) string {
	if len(s) > longestShown {
		s = strings.ToValidUTF8(s[:longestShown], "") + "..."
	}
	return strconv.Quote(s)
}

// Nearest returns the known name that is closest to name, or "" if none is close. It accepts one mistake in about four
// characters.
func Nearest(name string, known []string) string {
	nearest, least := "", len(name)/4+1
	for _, k := range known {
		if d := editDistance(name, k); d <= least {
			nearest, least = k, d-1
		}
	}
	return nearest
}

// editDistance returns the Levenshtein distance: the number of characters to insert, delete or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
