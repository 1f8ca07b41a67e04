package policies

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const sharing = `
shared:
  - name: tenant
    key: header:X-Tenant
    rate: 1000/24h
    capacity: 1000
    overrides: [ { keys: [acme], limits: [ { capacity: 9000 } ] } ]
  - { name: unused, key: global, quota: 5/day, cost: 1 }
policies:
  - { name: read, limits: [ { name: burst, rate: 5/s, capacity: 10 }, { use: tenant } ] }
  - { name: write, cost: 2, limits: [ { use: tenant } ] }
`

func TestValidate_showsSharedLimitsAndWhoUsesThem(t *testing.T) {
	const hint = "write quota: 1000/day: docs/policies.md#what-per-day-means\n"
	want := `POLICY         MATCH                KEY              LIMIT            RATE      CAPACITY  COST          FULL AGAIN  AT MOST
shared/tenant  used by read, write  header:x-tenant  tenant           1000/24h  1000      the policy's  after 24h   2000 in 24h
                                    header:x-tenant  tenant for acme  1000/24h  9000      the policy's  after 216h  10000 in 24h
shared/unused  used by no policy    global           unused           5/day     5         1             next day    5 in each day
read           /**                  ip               burst            5/s       10        1             after 2s    15 in 1s
                                    header:x-tenant  shared/tenant    1000/24h  1000      1             after 24h   2000 in 24h
write          /**                  header:x-tenant  shared/tenant    1000/24h  1000      2             after 24h   2000 in 24h

hint: shared/tenant is a bucket, and lets up to 2000 pass in 24h. If 1000 in each day are meant, ` + hint +
		`hint: shared/tenant for acme is a bucket, and lets up to 10000 pass in 24h. If 1000 in each day are meant, ` + hint +
		`warning: no policy uses the shared limit unused
warning: write never applies: read, which stands before it, takes all its requests
valid: 2 policies, 3 limits, 2 shared limits
`
	assert.Equal(t, want, output(t, "validate", policyFile(t, sharing)))
}

func TestSimulate_namesTheSourcesOfSharedLimitsToo(t *testing.T) {
	set, err := loadPolicies(policyFile(t, sharing))
	require.NoError(t, err)
	assert.Equal(t, []string{"header:x-tenant"}, sentSources(set.All()[1]))
}

func TestExplain_showsTheBucketsOfSharedLimits(t *testing.T) {
	want := `read  applies: /**

client 192.0.2.7, cost 1
BUCKETS                        LIMIT   RATE      CAPACITY  COST  FULL AGAIN
read:ip=192.0.2.7              burst   5/s       10        1     after 2s
shared/tenant:h:x-tenant=acme  tenant  1000/24h  9000      1     after 216h
`
	got := output(t, "explain", "-policies", policyFile(t, sharing), "-client", "192.0.2.7", "-H", "X-Tenant: acme", "GET", "/x")
	assert.Equal(t, want, got)
}
