package settings

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/violation"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// prefix of the names of the environment variables, except for those tagged `unprefixed`.
const prefix = setting.Prefix

// variable is one environment variable, and the field of a [Config] that it is decoded into.
type variable struct {
	name     string
	fallback string
	meaning  string
	field    reflect.Value
	isTokens bool // a secret that is a list of tokens, in a file; in a variable it is one
}

// fileSuffix makes of a secret's name that of its twin, which names a file with the secret.
const fileSuffix = "_FILE"

// isSecret reports whether the setting is a secret, and so has a twin.
func (s variable) isSecret() bool { return s.field.Type() == reflect.TypeFor[secret.Secret]() }

// settingsOf lists the settings of a configuration in order: every field with an envconfig tag, also in nested structs.
// Fields with the tag "-" are left out: another setting decides their value.
func settingsOf(cfg any) []variable {
	var list []variable
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name, tagged := tag.Lookup("envconfig")
		if !tagged {
			list = append(list, settingsOf(v.Field(i).Addr().Interface())...)
			continue
		}
		if name == "-" {
			continue
		}
		if _, whole := tag.Lookup("unprefixed"); !whole {
			name = prefix + name
		}
		s := variable{name: name, fallback: tag.Get("default"), meaning: tag.Get("desc"), field: v.Field(i)}
		if s.isSecret() {
			s.meaning += "; or a file with it, in " + name + fileSuffix
		}
		if _, s.isTokens = tag.Lookup("tokens"); s.isTokens {
			s.meaning += ", of lines name:token"
		}
		list = append(list, s)
	}
	return list
}

// decode has envconfig decode one variable. It passes them one at a time, because envconfig stops at its first error,
// and without a prefix, because envconfig falls back to HTTP_ADDR where VELOCITY_HTTP_ADDR is not set.
//
// A variable that is set but empty counts as not set: compose files make one of `NAME: ${NAME}`, and envconfig would
// take the empty text as the value. After an error the field has its default, so that no further check reports it.
func (s variable) decode() error {
	value := strings.TrimSpace(os.Getenv(s.name))
	if value == "" {
		_ = os.Unsetenv(s.name)
	} else {
		_ = os.Setenv(s.name, value) // without the spaces around it, which numbers and durations refuse
	}
	if s.process() == nil {
		return nil
	}
	_ = os.Unsetenv(s.name)
	if err := s.process(); err != nil {
		panic(fmt.Sprintf("the default of %s: %v", s.name, err))
	}
	return fmt.Errorf("%s: %q: %s", s.name, value, s.form())
}

func (s variable) process() error {
	one := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value",
		Type: s.field.Type(),
		Tag:  reflect.StructTag("envconfig:" + strconv.Quote(s.name) + " default:" + strconv.Quote(s.fallback)),
	}}))
	if err := envconfig.Process("", one.Interface()); err != nil {
		return err
	}
	s.field.Set(one.Elem().Field(0))
	if s.field.Kind() == reflect.Slice {
		for i := range s.field.Len() {
			entry := s.field.Index(i)
			entry.SetString(strings.TrimSpace(entry.String()))
		}
	}
	return nil
}

// asWritten makes the violations show numbers and durations as the variables hold them: 90s, where the checks print 1m30s.
func asWritten(err error, list []variable) error {
	for _, one := range Violations(err) {
		v, ok := errors.AsType[*violation.Error](one)
		for _, s := range list {
			kind, written := s.field.Kind(), os.Getenv(s.name)
			if ok && v.Setting == s.name && v.Value == fmt.Sprint(s.field.Interface()) && written != "" &&
				(kind == reflect.Int || kind == reflect.Int64) {
				v.Value = written
			}
		}
	}
	return err
}

// form describes the values that the setting's type accepts. Texts always decode, and secrets are texts, so that no
// error shows a secret.
func (s variable) form() string {
	switch {
	case s.field.Type() == reflect.TypeFor[time.Duration]():
		return "must be a duration, as in 50ms, 2s or 1m30s"
	case s.field.Kind() == reflect.Bool:
		return "must be true or false"
	default:
		return "must be a whole number"
	}
}
