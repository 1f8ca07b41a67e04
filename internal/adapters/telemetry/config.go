package telemetry

import (
	"strconv"

	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/violation"
)

// Decisions says which decisions are logged.
type Decisions string

// The values of [Decisions].
const (
	DecisionsAll     Decisions = "all"     // every decision
	DecisionsBlocked Decisions = "blocked" // decisions that refuse a request
	DecisionsNone    Decisions = "none"
)

// The values of LogFormat. The empty text is FormatAuto.
const (
	FormatAuto    = "auto" // console at a terminal, else json
	FormatJSON    = "json"
	FormatConsole = "console"
)

// Config of the logs.
type Config struct {
	LogLevel     string    `envconfig:"LOG_LEVEL" default:"info" desc:"least level that is logged: debug, info, warn or error; decisions are info"`
	LogFormat    string    `envconfig:"LOG_FORMAT" default:"auto" desc:"form of the log: json, console (lines for people), or auto: console at a terminal, else json"`
	LogDecisions Decisions `envconfig:"LOG_DECISIONS" default:"all" desc:"decisions that are logged: all, blocked or none"`
}

// Validate reports every violation at once.
func (c Config) Validate() error {
	var v violation.List
	if _, err := c.level(); err != nil {
		v.AddError(err)
	}
	switch c.LogFormat {
	case "", FormatAuto, FormatJSON, FormatConsole:
	default:
		v.Add("LOG_FORMAT", strconv.Quote(c.LogFormat), "must be auto, json or console")
	}
	switch c.LogDecisions {
	case DecisionsAll, DecisionsBlocked, DecisionsNone:
	default:
		v.Add("LOG_DECISIONS", strconv.Quote(string(c.LogDecisions)), "must be all, blocked or none")
	}
	return v.Err()
}

// level refuses zap's levels above error, which would hide failures.
func (c Config) level() (zapcore.Level, error) {
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil || c.LogLevel == "" || level > zapcore.ErrorLevel {
		return level, &violation.Error{Setting: "LOG_LEVEL", Value: strconv.Quote(c.LogLevel), Reason: "must be debug, info, warn or error"}
	}
	return level, nil
}
