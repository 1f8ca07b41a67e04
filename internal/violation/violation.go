// Package violation says what is wrong with a configuration.
//
// A package that checks its configuration names a setting by its short name, such as REDIS_ADDRS. Its user knows the
// setting by another name: an environment variable, or a field of a struct. [Rename] puts the user's names into the errors.
package violation

import (
	"errors"
	"regexp"
	"strconv"
)

// Error says what is wrong with one setting.
type Error struct {
	// Setting is the short name.
	Setting string
	// Value is the value found, already safe to show. Empty: it is not shown.
	Value string
	// Reason says why the value is wrong, or what it must be. It has the short names of other settings between braces:
	// "needs {REDIS_PASSWORD}".
	Reason string
	// Cause is the error behind the reason, which follows it. It may be nil.
	Cause error
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Setting + ": "
	if e.Value != "" {
		text += e.Value + ": "
	}
	text += braces.ReplaceAllString(e.Reason, "$1")
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

var braces = regexp.MustCompile(`\{([A-Z_]+)\}`)

// List collects what is wrong with a configuration. The zero value is empty.
type List struct{ errs []error }

// Add adds an [Error] without a cause.
func (l *List) Add(setting, value, reason string) {
	l.AddError(&Error{Setting: setting, Value: value, Reason: reason})
}

// AddError adds an error, if it is not nil.
func (l *List) AddError(err error) { l.errs = append(l.errs, err) }

// Text is a setting that is a text, with its value.
type Text struct{ Setting, Value string }

// NoEffect adds each of the settings that is not empty: it "has no effect" for this reason.
func (l *List) NoEffect(reason string, settings ...Text) {
	for _, s := range settings {
		if s.Value != "" {
			l.Add(s.Setting, strconv.Quote(s.Value), "has no effect "+reason)
		}
	}
}

// Err returns all errors joined; nil if there are none.
func (l *List) Err() error { return errors.Join(l.errs...) }

// Rename returns err with other names for the settings. It looks for each [Error] in err and in the errors that err joins.
func Rename(err error, name func(setting string) string) error {
	if _, found := errors.AsType[*Error](err); !found {
		return err
	}
	switch e := err.(type) { //nolint:errorlint // what wraps a violation would lose its text
	case *Error:
		renamed := *e
		renamed.Setting = name(e.Setting)
		renamed.Reason = braces.ReplaceAllStringFunc(e.Reason, func(s string) string { return name(s[1 : len(s)-1]) })
		return &renamed
	case interface{ Unwrap() []error }:
		var errs []error
		for _, part := range e.Unwrap() {
			errs = append(errs, Rename(part, name))
		}
		return errors.Join(errs...)
	}
	return err
}
