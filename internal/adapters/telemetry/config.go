package telemetry

import (
	"errors"
	"fmt"

	"go.uber.org/zap/zapcore"
)

// Decisions says which decisions are logged.
type Decisions string

// The choices.
const (
	DecisionsAll     Decisions = "all"     // every one, none left out
	DecisionsBlocked Decisions = "blocked" // those that the client was refused
	DecisionsNone    Decisions = "none"
)

// Config of the logs.
type Config struct {
	LogLevel     string    `envconfig:"LOG_LEVEL" default:"info" desc:"least level that is logged: debug, info, warn or error; decisions are info"`
	LogDecisions Decisions `envconfig:"LOG_DECISIONS" default:"all" desc:"decisions that are logged: all, blocked or none"`
}

// Validate reports every violation at once.
func (c Config) Validate() error {
	var errs []error
	if _, err := c.level(); err != nil {
		errs = append(errs, err)
	}
	switch c.LogDecisions {
	case DecisionsAll, DecisionsBlocked, DecisionsNone:
	default:
		errs = append(errs, fmt.Errorf("VELOCITY_LOG_DECISIONS: %q: must be all, blocked or none", c.LogDecisions))
	}
	return errors.Join(errs...)
}

// level refuses zap's levels above error: with those, failures would not be logged.
func (c Config) level() (zapcore.Level, error) {
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil || c.LogLevel == "" || level > zapcore.ErrorLevel {
		return level, fmt.Errorf("VELOCITY_LOG_LEVEL: %q: must be debug, info, warn or error", c.LogLevel)
	}
	return level, nil
}
