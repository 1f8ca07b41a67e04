package policyfile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Error is one thing that is wrong with a file.
type Error struct {
	// Line and Column, from 1, of the value that is wrong, or of what lacks it.
	Line, Column int
	// Field is its path: "policies[0].limits[1].rate". Empty where the file as a whole is meant.
	Field string
	// Value found, fit to be shown; empty where there is none.
	Value string
	// Reason says what would be right.
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

// Errors are all that is wrong with a file, in the order of their lines.
type Errors []*Error

// Error implements error, with a line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i := range e {
		errs[i] = e[i]
	}
	return errs
}

// maxErrors is the most that are reported.
const maxErrors = 100

// sorted puts the errors in the order of their places, and cuts what is too much of them.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if more := len(e) - maxErrors; more > 0 {
		last := e[maxErrors-1]
		e = append(e[:maxErrors:maxErrors], &Error{
			Line: last.Line, Column: last.Column, Reason: "and " + strconv.Itoa(more) + " errors more",
		})
	}
	return e
}

// longestShown is how much of a value an error shows, in bytes.
const longestShown = 64

// shown quotes a value.
func shown(s string) string {
	if len(s) > longestShown {
		s = strings.ToValidUTF8(s[:longestShown], "") + "..."
	}
	return strconv.Quote(s)
}

// Nearest returns the one of the known names that was probably meant by a name, allowing one slip in about four
// characters; "" if none is close.
func Nearest(name string, known []string) string {
	nearest, least := "", len(name)/4+1
	for _, k := range known {
		if d := editDistance(name, k); d <= least {
			nearest, least = k, d-1
		}
	}
	return nearest
}

// editDistance is Levenshtein's: how many characters must be inserted, deleted or replaced.
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
