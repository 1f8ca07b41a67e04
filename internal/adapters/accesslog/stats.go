package accesslog

import (
	"bytes"
	"unicode/utf8"
)

const (
	maxExamples    = 5
	maxExampleText = 160
)

// Stats counts what became of the lines of the logs.
type Stats struct {
	// Lines counts all lines, Requests those that the service would decide.
	Lines    int `json:"lines"`
	Requests int `json:"requests"`
	// Malformed counts lines that are not requests. MalformedExamples has the first of each log.
	Malformed         int       `json:"malformed"`
	MalformedExamples []Example `json:"malformed_examples,omitempty"`
	// Refused counts requests for a path that the service refuses, because it has no normal form.
	Refused         int       `json:"refused"`
	RefusedExamples []Example `json:"refused_examples,omitempty"`
	// Late counts lines that came later than Config.Window after their time. They get the time of an earlier line.
	Late int `json:"late"`
	// NoHost counts requests without a host, which no policy for a host can match.
	NoHost int `json:"no_host"`
}

// Example is a line that was skipped.
type Example struct {
	Log    string `json:"log"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
	// Text is the beginning of the line.
	Text string `json:"text"`
}

func appendExample(list []Example, e *entry, err error) []Example {
	if len(list) == maxExamples {
		return list
	}
	line := string(bytes.TrimRight(e.line, "\r\n")) // a copy
	if len(line) > maxExampleText {
		cut := maxExampleText
		for cut > maxExampleText-utf8.UTFMax && !utf8.RuneStart(line[cut]) {
			cut--
		}
		line = line[:cut] + "..."
	}
	return append(list, Example{Log: e.Log, Line: e.Line, Reason: err.Error(), Text: line})
}

func (s *Stats) add(t *Stats) {
	s.Lines += t.Lines
	s.Requests += t.Requests
	s.Malformed += t.Malformed
	s.MalformedExamples = append(s.MalformedExamples, t.MalformedExamples...)
	s.Refused += t.Refused
	s.RefusedExamples = append(s.RefusedExamples, t.RefusedExamples...)
	s.Late += t.Late
	s.NoHost += t.NoHost
}
