package policyfile_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestParse_policiesShareALimit(t *testing.T) {
	set, err := policyfile.Parse([]byte(`
policies:
  - name: read
    limits:
      - { name: burst, rate: 5/s, capacity: 10 }
      - { use: tenant }
      - { name: daily, quota: 1000/day, cost: 1 }
  - name: write
    limits:
      - use: tenant
      - use: all
shared: # it may stand after the policies
  - name: tenant
    key: [header:X-Tenant, ip]
    rate: 100/s
    capacity: 200
    overrides:
      - { keys: ["acme&*"], limits: [ { rate: 500/s, capacity: 900 } ] }
      - { keys: ["big&*"], limits: [ { name: tenant, capacity: 300 } ] }
  - { name: all, quota: 9000/minute, key: global }
  - { name: unused, key: ip, rate: 1/s, capacity: 1, cost: 1 }
`), "")
	require.NoError(t, err)
	read, write := set.All()[0], set.All()[1]
	names := func(p *policy.Policy) (names []string) {
		for i := range p.Limits {
			names = append(names, p.Limits[i].Name())
		}
		return names
	}
	assert.Equal(t, []string{"burst", "tenant", "daily"}, names(read), "it counts where use stands")
	assert.Equal(t, []string{"tenant", "all"}, names(write))
	assert.Equal(t, limit(t, "tenant", "100/s", 200), read.Limits[1])
	tenant, err := set.Shared("tenant")
	require.NoError(t, err)
	assert.Same(t, tenant, read.Shared["tenant"])
	assert.Same(t, tenant, write.Shared["tenant"])
	assert.Equal(t, "header:x-tenant, ip", write.KeyOf("tenant").String())
	for client, want := range map[string]domain.Limit{
		"acme": limit(t, "tenant", "500/s", 900), "big": limit(t, "tenant", "100/s", 300), "other": limit(t, "tenant", "100/s", 200),
	} {
		parts := []clientkey.Part{{Source: clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}, Value: client}, {Value: "192.0.2.7"}}
		assert.Equal(t, []domain.Limit{want}, write.Groups()[0].LimitsFor(parts, false), client)
	}
	assert.Len(t, set.AllShared(), 3)
	_, err = set.Shared("burst")
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
}

func TestParse_refusesWrongSharedLimits(t *testing.T) {
	const tenant = "shared:\n- { name: tenant, key: ip, rate: 5/s, capacity: 9 }\n"
	const policies = "policies:\n- { name: a, limits: [ { rate: 5/s, capacity: 9 } ] }\n"
	for file, want := range map[string]string{
		// the list of shared limits
		"shared: x\n" + policies: `1:9: shared: "x": must be a list of shared limits`,
		"shared:\n- { key: ip, rate: 5/s, capacity: 9 }\n" + policies:                                                                              `2:3: shared[0].name: is missing`,
		"shared:\n- { name: t, rate: 5/s, capacity: 9 }\n" + policies:                                                                              `2:3: shared[0].key: is missing`,
		"shared:\n- { name: T, key: ip, rate: 5/s, capacity: 9 }\n" + policies:                                                                     `2:11: shared[0].name: "T": must match [a-z0-9][a-z0-9_-]{0,62}`,
		"shared:\n- { name: t, key: ip, rate: 5/s }\n" + policies:                                                                                  `2:3: shared[0].capacity: `,
		"shared:\n- { name: t, key: hat, rate: 5/s, capacity: 9 }\n" + policies:                                                                    `2:19: shared[0].key: "hat": must be ip, `,
		"shared:\n- { name: t, key: [ip, ip], quota: 5/day }\n" + policies:                                                                         `2:19: shared[0].key: "ip, ip": has ip twice`,
		"shared:\n- { name: t, key: descriptor, quota: 5/day }\n" + policies:                                                                       `2:19: shared[0].key: "descriptor": is always the key`,
		"shared:\n- { name: t, key: ip, quota: 5/day, mode: shadow }\n" + policies:                                                                 `2:37: shared[0]: "mode": is not a known field`,
		tenant + "- { name: tenant, key: global, quota: 5/day }\n" + policies:                                                                      `3:11: shared[1].name: "tenant": there is a shared limit of this name on line 2`,
		"shared:\n- { name: t, key: ip, rate: 5/s, capacity: 9, overrides: [ { keys: [a/b], limits: [ { capacity: 7 } ] } ] }\n" + policies:        `2:69: shared[0].overrides[0].keys[0]: "a/b": `,
		"shared:\n- { name: t, key: ip, rate: 5/s, capacity: 9, overrides: [ { keys: [a], limits: [ { name: b, capacity: 7 } ] } ] }\n" + policies: `2:91: shared[0].overrides[0].limits[0].name: "b": must be t, the name of the shared limit, or left out`,
		"shared:\n- { name: t, key: ip, rate: 5/s, capacity: 9, overrides: [ { keys: [a], limits: [ { capacity: 0 } ] } ] }\n" + policies:          `2:95: shared[0].overrides[0].limits[0].capacity: 0: must be from 1`,
		"shared:\n- { name: t, key: ip, rate: 5/s, capacity: 9, overrides: [ { keys: [a], limits: [ { capacity: 7 } ], when: x } ] }\n" + policies: `"when": is not a known field`,
		"shared:\n" + strings.Repeat("- {}\n", policy.MaxShared+1) + policies:                                                                      `2:1: shared: 10001: there must be at most 10000 shared limits`,
		// the limits of a policy
		tenant + "policies:\n- limits: [ { use: tennant } ]\n  name: a\n":                                                                           `4:20: policies[0].limits[0].use: "tennant": is no shared limit: the shared limits are tenant`,
		"policies:\n- limits: [ { use: tenant } ]\n  name: a\n":                                                                                     `2:20: policies[0].limits[0].use: "tenant": is no shared limit: the file has none`,
		tenant + "policies:\n- limits: [ { use: tenant, cost: 1 } ]\n  name: a\n":                                                                   `4:28: policies[0].limits[0].cost: must not stand beside use: a shared limit is described in shared alone`,
		tenant + "policies:\n- limits: [ { name: x, use: tenant } ]\n  name: a\n":                                                                   `4:15: policies[0].limits[0].name: must not stand beside use`,
		tenant + "policies:\n- limits: [ { use: [tenant] } ]\n  name: a\n":                                                                          `4:20: policies[0].limits[0].use: a list: must be a text`,
		tenant + "policies:\n- name: a\n  limits:\n  - use: tenant\n    use: tenant\n":                                                              `7:5: policies[0].limits[0].use: is repeated: it is also on line 6`,
		tenant + "policies:\n- limits: [ { use: tenant }, { use: tenant } ]\n  name: a\n":                                                           `4:37: policies[0].limits[1].use: "tenant": there is a limit of this name on line 4`,
		tenant + "policies:\n- limits: [ { use: tenant }, { quota: 5/day } ]\n  name: tenant\n":                                                     `4:30: policies[0].limits[1]: "tenant": there is a limit of this name on line 4: a limit without a name has its policy's, so give it one`,
		tenant + "policies:\n- limits: [ { quota: 5/day }, { use: tenant } ]\n  name: tenant\n":                                                     `4:38: policies[0].limits[1].use: "tenant": there is a limit of this name on line 4`,
		tenant + "policies:\n- limits: [ { use: tenant } ]\n  name: a\n  cost: 10\n":                                                                `6:9: policies[0].cost: 10: must be at most 9, the capacity of the limit tenant`,
		tenant + "policies:\n- limits: [ { use: tenant } ]\n  name: a\n  overrides: [ { keys: [x], limits: [ { name: tenant, capacity: 7 } ] } ]\n": `6:47: policies[0].overrides[0].limits[0].name: "tenant": is a shared limit: it has overrides of its own`,
		tenant + "policies:\n- limits: [ { use: tenant } ]\n  name: a\n  match: { domain: edge, descriptor: [b] }\n":                                `4:20: policies[0].limits[0].use: "ip": requests that match cannot have it`,
		tenant + "policies:\n- limits: [ { use: tenant }" + strings.Repeat(", { use: tenant }", policy.MaxLimits) + " ]\n  name: a\n":               `4:11: policies[0].limits: 33: there must be from 1 to 32 limits`,
	} {
		_, err := policyfile.Parse([]byte(file), "")
		require.ErrorIs(t, err, domain.ErrInvalidPolicy, file)
		first, _, _ := strings.Cut(err.Error(), "\n")
		assert.Contains(t, first, want, "%.300s", file)
	}
}

func TestParse_namesTheFirstOfManySharedLimits(t *testing.T) {
	var b strings.Builder
	b.WriteString("shared:\n")
	for name := range strings.SplitSeq("a b c d e f g h i j k l", " ") {
		b.WriteString("- { name: " + name + ", key: ip, quota: 5/day }\n")
	}
	b.WriteString("policies: [ { name: p, limits: [ { use: m } ] } ]\n")
	_, err := policyfile.Parse([]byte(b.String()), "")
	require.EqualError(t, err, `14:41: policies[0].limits[0].use: "m": is no shared limit: the shared limits are a, b, c, d, e, f, g, h, i, j, 2 more`)
}

// One mistake is one error, whoever uses the limit.
func TestParse_aWrongSharedLimitIsReportedOnce(t *testing.T) {
	_, err := policyfile.Parse([]byte(`shared:
  - { name: tenant, key: ip, rate: 5/x, capacity: 9 }
policies:
  - { name: a, limits: [ { use: tenant } ] }
  - { name: b, limits: [ { use: tenant } ], overrides: [ { keys: [x], limits: [ { name: tenant, capacity: 7 } ] } ] }
  - { name: c, limits: [ { use: tenant }, { name: tenant, rate: 5/s, capacity: 1 } ] }
`), "")
	var errs policyfile.Errors
	require.ErrorAs(t, err, &errs)
	require.Len(t, errs, 2)
	assert.ErrorContains(t, errs[0], `2:36: shared[0].rate: "5/x"`)
	assert.ErrorContains(t, errs[1], `6:51: policies[2].limits[1].name: "tenant": there is a limit of this name on line 6`)
}

// A name that is refused still names the limit in the errors about other places.
func TestParse_aSharedLimitWithAWrongNameIsKnownByIt(t *testing.T) {
	_, err := policyfile.Parse([]byte(`shared:
  - { name: Tenant, key: ip, quota: 5/day }
  - { name: Org, key: ip, quota: 5/day }
policies:
  - { name: a, limits: [ { use: Tenant } ] }
  - { name: b, limits: [ { use: tenant } ] }
`), "")
	require.EqualError(t, err, `2:13: shared[0].name: "Tenant": must match [a-z0-9][a-z0-9_-]{0,62}
3:13: shared[1].name: "Org": must match [a-z0-9][a-z0-9_-]{0,62}
6:33: policies[1].limits[0].use: "tenant": is no shared limit: the shared limits are Tenant, Org`)
}
