package policyfile

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// Bounds of the lists of the section jwt.
const (
	maxAudiences  = 16
	maxAlgorithms = 16
)

// jwtFields are the fields of the section jwt.
var jwtFields = []field[writtenRules]{
	{
		"header", false, "The header that holds tokens, with or without Bearer before them; without it, Authorization.", textOf(`^[A-Za-z0-9-]+$`),
		func(r *reader, p place, into *writtenRules) { into.Header = r.checked(p, token.CheckHeader) },
	},
	{
		"jwks_file", false, "File of a key set (JWKS); read again when it changes. A relative path starts at the folder of this file.", textOf(""),
		func(r *reader, p place, into *writtenRules) { into.JWKSFile = r.checked(p, token.CheckText) },
	},
	{
		"jwks_url", false, "URL of a key set (JWKS); read again every few minutes, and when a token names a key that is not in it.", textOf("^https?://"),
		func(r *reader, p place, into *writtenRules) { into.JWKSURL = r.checked(p, token.CheckURL) },
	},
	{
		"hmac_secret_file", false, "File of the secret of HS256; read again when it changes. A relative path starts at the folder of this file.", textOf(""),
		func(r *reader, p place, into *writtenRules) { into.HMACSecretFile = r.checked(p, token.CheckText) },
	},
	{
		"issuer", false, "What the claim iss of a token must be; without it, any.", textOf(""),
		func(r *reader, p place, into *writtenRules) { into.Issuer = r.checked(p, token.CheckText) },
	},
	{
		"audience", false, "What the claim aud of a token must have: a text, or a list of which one is enough; without it, any.",
		schema{"anyOf": []schema{textOf(""), listOf(textOf(""), 1, maxAudiences)}},
		func(r *reader, p place, into *writtenRules) {
			into.Audience = r.oneOrMore(p, "audiences", token.CheckText)
		},
	},
	{
		"algorithms", false, "Algorithms that are accepted; without it, RS256, ES256 and EdDSA by a key set, HS256 by a secret.",
		listOf(oneOf(token.Algorithms()...), 1, maxAlgorithms),
		func(_ *reader, p place, into *writtenRules) { into.algorithms = p },
	},
	{
		"leeway", false, "How far the clocks of the issuer and of this machine may differ; without it, 0s.", durationSchema,
		func(r *reader, p place, into *writtenRules) { into.Leeway = parsed(r, p, token.ParseLeeway) },
	},
}

// writtenRules are the rules of a file. Which algorithms are right depends on the other fields.
type writtenRules struct {
	token.Rules
	algorithms place
}

// readRules reads the section jwt.
func readRules(r *reader, p place) *token.Rules {
	var written writtenRules
	given, right := object(r, p, jwtFields, &written)
	if !right {
		return nil
	}
	if err := written.CheckSource(); err != nil {
		at := p
		if field, ok := errors.AsType[*domain.FieldError](err); ok && field.Field != "" {
			at = given[field.Field]
		}
		r.refuse(at, err)
		return nil
	}
	if written.algorithms.field != "" {
		written.Algorithms = r.oneOrMore(written.algorithms, "algorithms", written.CheckAlgorithm)
	}
	return &written.Rules
}

// oneOrMore reads a text or a list of texts.
func (r *reader) oneOrMore(p place, what string, check func(string) error) (all []string) {
	if _, isList := p.node.(*ast.SequenceNode); !isList {
		return r.appendText(nil, p, check)
	}
	r.list(p, what, "must have at least one of them", func(item place) { all = r.appendText(all, item, check) })
	return all
}

// placeRelativePaths makes the paths of the rules start at the folder of the policy file.
func placeRelativePaths(rules *token.Rules, policyFile string) {
	for _, path := range []*string{&rules.JWKSFile, &rules.HMACSecretFile} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(policyFile), *path)
		}
	}
}

// UsesClaims returns the names of the policies and shared limits that have a claim in a key, or in a condition of an override.
func (s *Set) UsesClaims() (names []string) {
	all := s.All()
	for _, shared := range s.AllShared() {
		all = append(all[:len(all):len(all)], shared.Policy())
	}
	for _, p := range all {
		if hasClaim(p) {
			names = append(names, p.Name)
		}
	}
	return names
}

func hasClaim(p *policy.Policy) bool {
	keys := []clientkey.Key{p.EffectiveKey()}
	for _, key := range p.LimitKeys {
		keys = append(keys, key)
	}
	isClaim := func(s clientkey.Source) bool { return s.Kind == clientkey.SourceClaim }
	return slices.ContainsFunc(keys, func(key clientkey.Key) bool { return slices.ContainsFunc(key, isClaim) }) ||
		slices.ContainsFunc(p.Overrides, func(o policy.Override) bool {
			return slices.ContainsFunc(o.When, func(c policy.Condition) bool { return isClaim(c.Source) })
		})
}
