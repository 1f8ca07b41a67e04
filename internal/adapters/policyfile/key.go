package policyfile

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// key reads the key of a policy or of a limit: a source, or a list of them.
func (r *reader) key(p place) (key clientkey.Key) {
	if _, isList := p.node.(*ast.SequenceNode); !isList {
		return clientkey.Key{r.source(p)}
	}
	r.list(p, "sources", "must have at least one source", func(item place) {
		key = append(key, r.source(item))
	})
	return key
}

// writtenSource is a source that is written as a mapping.
type writtenSource struct {
	source clientkey.Source
	secret bool
}

var sourceFields = []field[writtenSource]{
	{
		"from", true, "The source: header:NAME, cookie:NAME, query:NAME, ...", sourceSchema,
		func(r *reader, p place, into *writtenSource) { into.source = parsed(r, p, parseSource) },
	},
	{
		"secret", false, "true: the store, logs and pages hold an HMAC of the value, under VELOCITY_KEY_SECRET, and never the value.",
		schema{"type": "boolean"},
		func(r *reader, p place, into *writtenSource) { into.secret = r.truth(p) },
	},
}

// source reads a source, which is a text or a mapping.
func (r *reader) source(p place) clientkey.Source {
	switch p.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
	default:
		return parsed(r, p, parseSource)
	}
	var written writtenSource
	given, right := object(r, p, sourceFields, &written)
	switch {
	case !right || !written.secret:
	case r.hasher == nil:
		r.bad(given["secret"], "true", "needs VELOCITY_KEY_SECRET, which is not set")
	default:
		written.source.Hasher = r.hasher
		if err := (clientkey.Key{written.source}).Check(); err != nil {
			r.refuse(given["secret"], err)
			written.source.Hasher = nil
		}
	}
	return written.source
}

// truth reads true or false.
func (r *reader) truth(p place) bool {
	b, ok := p.node.(*ast.BoolNode)
	if !ok {
		r.wrong(p, "true or false")
		return false
	}
	return b.Value
}

// parseSource refuses the source descriptor, which is always the key of a policy that matches a descriptor.
func parseSource(s string) (clientkey.Source, error) {
	source, err := clientkey.ParseSource(s)
	if err == nil && source.Kind == clientkey.SourceDescriptor {
		return source, wrongValue(s, "is always the key of a policy that matches a descriptor: leave out key")
	}
	return source, err
}
