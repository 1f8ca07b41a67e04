package accesslog

import (
	"bytes"
	"unicode/utf8"
)

const (
	maxExamples    = 5
	maxExampleText = 160
)

// Stats is what became of the lines of the logs.
type Stats struct {
	// Lines is how many there were, Requests how many of them are requests that a door would decide.
	Lines    int `json:"lines"`
	Requests int `json:"requests"`
	// Malformed is how many are no requests, and MalformedExamples are the first of each log.
	Malformed         int       `json:"malformed"`
	MalformedExamples []Example `json:"malformed_examples,omitempty"`
	// Refused is how many ask for a path that a door refuses, because it has no normal form.
	Refused         int       `json:"refused"`
	RefusedExamples []Example `json:"refused_examples,omitempty"`
	// Late is how many came later than Config.Window after their time, and count as of the newest line then read.
	Late int `json:"late"`
	// NoHost is how many requests name no host, so that a policy for a host cannot match them.
	NoHost int `json:"no_host"`
}

// Example is a line that was left out.
type Example struct {
	Log    string `json:"log"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
	// Text is the beginning of the line.
	Text string `json:"text"`
}

func (s *Stats) malformed(e *entry, err error) {
	s.Malformed++
	s.MalformedExamples = appendExample(s.MalformedExamples, e, err)
}

func (s *Stats) refused(e *entry, err error) {
	s.Refused++
	s.RefusedExamples = appendExample(s.RefusedExamples, e, err)
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
