package policyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// writtenDenial is the field denied of a policy.
type writtenDenial struct {
	status                  int
	contentType, body, file string
}

var deniedFields = []field[writtenDenial]{
	{
		"status", false, "The status; without it, 429. In forward-auth ?denied= goes before it.",
		schema{"type": "integer", "minimum": denial.MinStatus, "maximum": denial.MaxStatus},
		func(r *reader, p place, into *writtenDenial) {
			status, _ := r.integer(p, denial.MinStatus, denial.MaxStatus)
			into.status = int(status)
		},
	},
	{
		"content_type", false, "The media type of the body.", textOf(`^[^/]+/[^/]+$`),
		func(r *reader, p place, into *writtenDenial) { into.contentType = r.checked(p, token.CheckText) },
	},
	{
		"body", false, "The body; {retry_after}, {limit} and {request_id} are replaced. Without it, the usual problem.",
		schema{"type": "string", "minLength": 1, "maxLength": denial.MaxBody},
		func(r *reader, p place, into *writtenDenial) { into.body = r.block(p) },
	},
	{
		"body_file", false, "A file with the body; read again when it changes. A relative path starts at the folder of this file.", textOf(""),
		func(r *reader, p place, into *writtenDenial) { into.file = r.checked(p, token.CheckText) },
	},
}

// deniedSchema is the schema of denied: a body has one source, and a type.
func deniedSchema() schema {
	denied := objectOf(deniedFields)
	denied["minProperties"] = 1
	denied["not"] = having("body", "body_file")
	denied["dependencies"] = schema{"body": []string{"content_type"}, "body_file": []string{"content_type"}}
	return denied
}

// readDenied reads denied.
func readDenied(r *reader, p place, into *policy.Policy) {
	var written writtenDenial
	given, right := object(r, p, deniedFields, &written)
	if !right {
		return
	}
	bodyAt := given["body"]
	if at, inFile := given["body_file"]; inFile {
		if written.body != "" {
			r.bad(at, shown(written.file), "must not stand beside body: an answer has one body")
			return
		}
		var err error
		if written.body, err = r.readFile(written.file); err != nil {
			r.bad(at, shown(written.file), err.Error())
			return
		}
		bodyAt = at
	}
	answer, err := denial.New(written.status, written.contentType, written.body)
	if wrong, ok := errors.AsType[*domain.FieldError](err); ok {
		at := p
		switch wrong.Field {
		case "body":
			at = bodyAt
		case "content_type":
			if at, ok = given["content_type"]; !ok {
				at = place{p.node, p.at, joined(p.field, "content_type")}
			}
		}
		r.refuse(at, err)
	}
	into.Denied = answer
}

// block reads a text, which may be written as a block of lines.
func (r *reader) block(p place) string {
	s, ok := "", false
	if lines, isBlock := p.node.(*ast.LiteralNode); isBlock {
		s, ok = lines.Value.Value, true
	} else {
		s, ok = r.text(p)
	}
	if ok && s == "" {
		r.refuse(p, token.CheckText(s))
	}
	return s
}

// readFile reads the file of a body. A relative path starts at the folder of the policy file. Its errors do not repeat the path.
func (r *reader) readFile(path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.folder, path)
	}
	r.notes(path)
	data, err := readRegular(path, denial.MaxBody)
	if wrong, ok := errors.AsType[*fs.PathError](err); ok {
		return "", fmt.Errorf("cannot be read: %w", wrong.Err)
	}
	if err == nil && len(data) == 0 {
		err = errors.New("is empty: a body has some text")
	}
	r.bodies = append(r.bodies, data)
	return string(data), err
}

// readRegular reads a file of at most so many bytes. It does not wait for what is no file, such as a named pipe.
func readRegular(path string, most int64) ([]byte, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a file")
	case info.Size() > most:
		return nil, fmt.Errorf("has %d bytes: must have at most %d", info.Size(), most)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(file, most+1))
}
