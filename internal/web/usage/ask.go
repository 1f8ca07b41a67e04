package usage

import (
	"bytes"
	"encoding/json"
	"slices"
)

// AskForUsage returns a request for a stream of OpenAI's chat completions API, or of a compatible one, with
// stream_options.include_usage set to true. asked reports whether the body was changed for that: a new slice is returned then, in
// which every other byte is as it was.
//
// Any other body is returned as it is: one that is no JSON object, has no "stream": true, or has include_usage already. So is a body
// with an input member, as the responses API has: that API reports usage in every stream, and refuses this option.
func AskForUsage(body []byte) (changed []byte, asked bool) {
	if !json.Valid(body) {
		return body, false
	}
	request := membersOf(body)
	if request == nil || string(request.value(body, "stream")) != "true" || request.value(body, "input") != nil {
		return body, false
	}
	options := request.value(body, "stream_options")
	switch wanted := membersOf(options); {
	case wanted == nil && options != nil && string(options) != "null":
		return body, false // the upstream refuses it, and says why
	case string(wanted.value(options, "include_usage")) == "true":
		return body, false
	default:
		return request.with(body, "stream_options", wanted.with(options, "include_usage", []byte("true"))), true
	}
}

// object has the members of a JSON object in the order of their text. Nil: the text is no object.
type object []member

// member is a name, and the place of its value in the text.
type member struct {
	name       string
	start, end int
}

// membersOf reads the members of a text that is valid JSON, or empty.
func membersOf(text []byte) object {
	d := json.NewDecoder(bytes.NewReader(text))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil
	}
	members := object{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil
		}
		end := int(d.InputOffset())
		members = append(members, member{name: name.(string), start: end - len(value), end: end})
	}
	return members
}

// value returns the text of the value of a member, or nil. Of members with the same name the last one counts.
func (o object) value(text []byte, name string) []byte {
	for _, m := range slices.Backward(o) {
		if m.name == name {
			return text[m.start:m.end]
		}
	}
	return nil
}

// with returns text with a member of a plain name that has this value. Of members with the same name the last one is replaced.
func (o object) with(text []byte, name string, value []byte) []byte {
	if o == nil {
		return slices.Concat([]byte(`{"`+name+`":`), value, []byte(`}`))
	}
	for _, m := range slices.Backward(o) {
		if m.name == name {
			return slices.Concat(text[:m.start], value, text[m.end:])
		}
	}
	begin := bytes.IndexByte(text, '{') + 1
	comma := ","
	if len(o) == 0 {
		comma = ""
	}
	return slices.Concat(text[:begin], []byte(`"`+name+`":`), value, []byte(comma), text[begin:])
}
