package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// prefix of the settings' environment variables, but for those tagged `unprefixed`.
const prefix = "VELOCITY_"

// setting is one environment variable and the field it is decoded into.
type setting struct {
	name     string
	fallback string
	meaning  string
	field    reflect.Value
}

// settingsOf lists the settings of a configuration: every field of it, and of the structs within, that has an
// envconfig tag, in order. The tag "-" is for fields that another setting decides.
func settingsOf(cfg any) []setting {
	var list []setting
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
		list = append(list, setting{name, tag.Get("default"), tag.Get("desc"), v.Field(i)})
	}
	return list
}

// decodeAll decodes every setting from the environment and reports all that cannot be decoded.
func decodeAll(settings []setting) error {
	var errs []error
	for _, s := range settings {
		errs = append(errs, s.decode())
	}
	return errors.Join(errs...)
}

// decode has envconfig decode one variable. One at a time, since envconfig stops at its first error, and by its
// whole name alone: envconfig reads HTTP_ADDR, too, where it finds no VELOCITY_HTTP_ADDR.
//
// A variable that is set but empty counts as not set, which is what compose files make of `NAME: ${NAME}`; envconfig
// would take it for the value. What is wrong is left at its default, so that nothing else is said of it.
func (s setting) decode() error {
	value := strings.TrimSpace(os.Getenv(s.name))
	if value == "" {
		_ = os.Unsetenv(s.name)
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

func (s setting) process() error {
	one := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value",
		Type: s.field.Type(),
		Tag:  reflect.StructTag("envconfig:" + strconv.Quote(s.name) + " default:" + strconv.Quote(s.fallback)),
	}}))
	if err := envconfig.Process("", one.Interface()); err != nil {
		return err
	}
	s.field.Set(one.Elem().Field(0))
	s.trim()
	return nil
}

// trim drops the spaces around texts and around the entries of lists.
func (s setting) trim() {
	switch s.field.Kind() {
	case reflect.String:
		s.field.SetString(strings.TrimSpace(s.field.String()))
	case reflect.Slice:
		for i := range s.field.Len() {
			entry := s.field.Index(i)
			entry.SetString(strings.TrimSpace(entry.String()))
		}
	}
}

// form says what the setting's type takes. Only types that can fail to decode need one: a secret cannot, so that no
// error shows it.
func (s setting) form() string {
	switch {
	case s.field.Type() == reflect.TypeFor[time.Duration]():
		return "must be a duration, as in 50ms, 2s or 1m30s"
	case s.field.Kind() == reflect.Bool:
		return "must be true or false"
	default:
		return "must be a whole number"
	}
}
