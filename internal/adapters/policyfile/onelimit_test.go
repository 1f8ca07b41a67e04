package policyfile_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
)

func TestParseLimit_readsALimitAsTheFileHasIt(t *testing.T) {
	for text, want := range map[string]limitspec.Spec{
		"name: daily, quota: 50000/month":                    {Name: "daily", Quota: "50000/month"},
		"{ name: burst, rate: 50/s, capacity: 100 }":         {Name: "burst", Rate: "50/s", Capacity: 100},
		`{"name": "burst", "cost": 2}`:                       {Name: "burst", Cost: 2},
		"name: p, concurrent: 5, lease: 90s":                 {Name: "p", Concurrent: 5, Lease: "90s"},
		"name: q, zone: Europe/Berlin, anchor: '2026-01-15'": {Name: "q", Zone: "Europe/Berlin", Anchor: "2026-01-15"},
		"name: burst": {Name: "burst"}, // the policy's limit says what it must say
	} {
		got, err := policyfile.ParseLimit(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got)
	}
}

func TestParseLimit_namesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "name: is missing: the name of the limit that is overridden",
		"quota: 5/day":                  "name: is missing: the name of the limit that is overridden",
		"name: A":                       `name: "A": ` + domain.NameRule,
		"name: a, rate: 5/d":            `rate: "5/d": must be 5/24h: durations have the units us, ms, s, m and h; for at most that many in each day write quota: 5/day`,
		"name: a, capacity: 0, cost: 0": "capacity: 0: must be from 1 to 1000000000000\ncost: 0: must be from 1 to 2147483647",
		"name: a, quotas: 5/day":        `limit: "quotas": is not a known field: did you mean quota?`,
		"name: a, name: b":              "name: is repeated: it is also on line 1",
		"name: a, key: ip":              `limit: "key": is not a known field: the fields are name, rate, capacity, quota, zone, anchor, concurrent, lease, cost`,
		"[a]":                           "",
		"name: a }, { name: b":          "",
		"name: &x a":                    `limit: "&": must not be used: anchors, aliases and merge keys are refused, write the value out or quote it`,
		"name: a\x00":                   "",
	} {
		got, err := policyfile.ParseLimit(text)
		require.ErrorIs(t, err, domain.ErrInvalidLimit, text)
		assert.Zero(t, got)
		if want != "" {
			assert.EqualError(t, err, want, text)
		}
	}
}
