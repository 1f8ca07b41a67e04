package policies

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// output runs a command, requires that it succeeds, and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs strings.Builder
	c := map[string]*command.Command{"explain": &Explain, "simulate": &Simulate, "validate": &Validate}[args[0]]
	require.Equal(t, command.ExitOK, c.Execute(t.Context(), args[1:], command.Streams{Out: &out, Err: &errs}), errs.String())
	return out.String()
}

// policyFile writes a policy file for a test, and returns its path.
func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const bothKinds = `
policies:
  - name: api
    match: { path: /api/** }
    key: header:X-Key
    cost: header:X-Cost
    limits:
      - { name: burst, rate: 5/s, capacity: 10 }
      - { name: daily, quota: 1000/day, zone: Europe/Berlin, cost: 1 }
      - { name: monthly, quota: 10000/month, anchor: 2026-01-15 }
    overrides:
      - { keys: ["partner-*"], limits: [ { name: daily, quota: 5000/24h } ] }
  - name: other
    cost: 2
    limits: [ { rate: 1/s, capacity: 2 } ]
`

func TestValidate_showsBothKinds(t *testing.T) {
	want := `POLICY  MATCH    KEY           LIMIT                RATE                         CAPACITY  COST           FULL AGAIN  AT MOST
api     /api/**  header:x-key  burst                5/s                          10        header:x-cost  after 2s    15 in 1s
                 header:x-key  daily                1000/day in Europe/Berlin    1000      1              next day    1000 in each day
                 header:x-key  monthly              10000/month from 2026-01-15  10000     header:x-cost  next month  10000 in each month
                 header:x-key  daily for partner-*  5000/24h                     5000      1              next 24h    5000 in each 24h
other   /**      ip            other                1/s                          2         2              after 2s    3 in 1s

valid: 2 policies, 4 limits
`
	assert.Equal(t, want, output(t, "validate", policyFile(t, bothKinds)))
}

func TestExplain_showsBothKinds(t *testing.T) {
	want := `api  applies: /api/**

client partner-1, cost 7
the override on line 12 applies: the client matches partner-*
BUCKETS                LIMIT    RATE                         CAPACITY  COST  FULL AGAIN
api:h:x-key=partner-1  burst    5/s                          10        7     after 2s
                       daily    5000/24h                     5000      1     next 24h
                       monthly  10000/month from 2026-01-15  10000     7     next month

The service believes header:x-cost only from VELOCITY_TRUSTED_PROXIES. From any other peer the cost is 1.
`
	file := policyFile(t, bothKinds)
	assert.Equal(t, want, output(t, "explain", "-policies", file, "GET", "/api/x", "-H", "X-Key: partner-1", "-H", "X-Cost: 7"))
}

const permits = `
shared:
  - { name: upstream, key: global, concurrent: 50 }
policies:
  - name: api
    match: { path: /api/** }
    key: header:X-Key
    cost: 3
    max_wait: 1500ms
    limits:
      - { name: burst, rate: 5/s, capacity: 10 }
      - { name: parallel, concurrent: 5, lease: 90s }
      - { use: upstream }
    overrides:
      - { keys: ["partner-*"], limits: [ { name: parallel, concurrent: 20 } ] }
  - name: edge
    match: { domain: edge, descriptor: [remote_address] }
    max_wait: 1s
    limits: [ { rate: 1/s, capacity: 2 } ]
  - name: later
    max_wait: 1s
    mode: shadow
    limits: [ { rate: 1/s, capacity: 2 } ]
    overrides:
      - { keys: ["192.0.2.7"], limits: [ { concurrent: 1 } ] }
`

func TestValidate_showsPermitsAndWaits(t *testing.T) {
	want := `POLICY           MATCH                         KEY           LIMIT                   RATE                   CAPACITY  COST  FULL AGAIN  AT MOST
shared/upstream  used by api                   global        upstream                50 at once, lease 1m   50        1     on release  50 at once
api              /api/**                       header:x-key  burst                   5/s                    10        3     after 2s    15 in 1s
                                               header:x-key  parallel                5 at once, lease 90s   5         1     on release  5 at once
                                               global        shared/upstream         50 at once, lease 1m   50        1     on release  50 at once
                                               header:x-key  parallel for partner-*  20 at once, lease 90s  20        1     on release  20 at once
edge             domain edge [remote_address]  descriptor    edge                    1/s                    2         1     after 2s    3 in 1s
later            /**                           ip            later                   1/s                    2         1     after 2s    3 in 1s
                                               ip            later for 192.0.2.7     1 at once, lease 1m    1         1     on release  1 at once

api: requests wait for up to 1.5s for tokens that are yet to come, instead of being denied, but not in forward-auth and the built-in /api/resource
edge: max_wait has no effect on requests of Envoy
later: max_wait has no effect in shadow mode; shadow mode, no request is denied
hint: forward-auth answers 501 under api, later: it cannot tell when a request ends, as concurrency limits need: docs/policies.md#concurrency
valid: 3 policies, 5 limits, 1 shared limit
`
	assert.Equal(t, want, output(t, "validate", policyFile(t, permits)))
}

// A request that waits holds a permit, so few permits leave max_wait without an effect.
func TestValidate_hintsAtPermitsOfWaitingRequests(t *testing.T) {
	const hint = "hint: api/parallel: a waiting request holds a permit, too, and none waits for a permit: beyond 5 at once requests are denied, whatever max_wait is: docs/policies.md#waiting\n"
	for limits, want := range map[string]bool{
		"max_wait: 3s, limits: [ { name: rate, rate: 5/s, capacity: 5 }, { name: parallel, concurrent: 5 } ]":          true,
		"max_wait: 3s, limits: [ { name: rate, rate: 5/s, capacity: 5 }, { name: parallel, concurrent: 20 } ]":         false,
		"max_wait: 3s, cost: 4, limits: [ { name: rate, rate: 5/s, capacity: 5 }, { name: parallel, concurrent: 5 } ]": false,
		"max_wait: 0s, limits: [ { name: rate, rate: 5/s, capacity: 5 }, { name: parallel, concurrent: 5 } ]":          false,
		"max_wait: 3s, mode: shadow, limits: [ { rate: 5/s, capacity: 5 }, { name: parallel, concurrent: 5 } ]":        false,
	} {
		out := output(t, "validate", policyFile(t, "policies: [ { name: api, "+limits+" } ]"))
		assert.Equal(t, want, strings.Contains(out, hint), "%s\n%s", limits, out)
	}
}

func TestValidate_namesTheStatusesOfRefunds(t *testing.T) {
	out := output(t, "validate", policyFile(t, "policies: [ { name: api, refund_on: [2xx, 503], limits: [ { rate: 5/s, capacity: 5 } ] } ]"))
	assert.Contains(t, out, "\napi: tokens come back if the upstream answers 2xx, 503\n")
}

func TestExplain_showsPermitsAndWaits(t *testing.T) {
	want := `api  applies: /api/**

client partner-1, cost 3, may wait for up to 1.5s
the override on line 15 applies: the client matches partner-*
BUCKETS                LIMIT     RATE                   CAPACITY  COST  FULL AGAIN
api:h:x-key=partner-1  burst     5/s                    10        3     after 2s
                       parallel  20 at once, lease 90s  20        1     on release
shared/upstream:g=     upstream  50 at once, lease 1m   50        1     on release
`
	file := policyFile(t, permits)
	assert.Equal(t, want, output(t, "explain", "-policies", file, "GET", "/api/x", "-H", "X-Key: partner-1"))
	assert.Contains(t, output(t, "explain", "-policies", file, "GET", "/x"), "\nclient 127.0.0.1, cost 1, in shadow mode: a denial passes\n")
}

// A bucket that is refilled completely in a day or longer was probably meant as a quota.
func TestValidate_hintsAtQuotas(t *testing.T) {
	for limit, want := range map[string]string{
		"rate: 1000/24h, capacity: 1000":  "is a bucket, and lets up to 2000 pass in 24h. If 1000 in each day are meant, write quota: 1000/day: docs",
		"rate: 1000/168h, capacity: 1500": "is a bucket, and lets up to 2500 pass in 168h. If 1000 in each week are meant, write quota: 1000/week: docs",
		"rate: 5/720h, capacity: 5":       "If 5 in each month are meant, write quota: 5/month: docs",
		"rate: 5/48h, capacity: 5":        "If 5 in each 48h are meant, write quota: 5/48h: docs",
		"rate: 900/24h, capacity: 100":    "",
		"rate: 1000/h, capacity: 24000":   "",
		"quota: 1000/day":                 "",
	} {
		file := policyFile(t, "policies:\n- name: p\n  limits: [ { rate: 1/s, capacity: 1 } ]\n- name: q\n  limits: [ { name: a, "+limit+" } ]\n"+
			"- name: r\n  limits: [ { rate: 1/s, capacity: 1 } ]\n  overrides: [ { keys: [x], limits: [ { name: r, rate: 1/1000h, capacity: 1 } ] } ]\n")
		found := output(t, "validate", file)
		assert.Equal(t, want != "", strings.Contains(found, "hint: q/a "), "%s: %s", limit, found)
		assert.Contains(t, found, want, limit)
		assert.Contains(t, found, "\nhint: r/r for x is a bucket, and lets up to 2 pass in 1000h.")
		assert.NotContains(t, found, "hint: p")
	}
}
