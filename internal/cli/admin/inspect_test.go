package admin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBucketReport_namesTheAddressThatCountsWithoutAKey(t *testing.T) {
	for source, want := range map[string]bool{
		"header:x-api-key": true, "cookie:sid": true, "query:key": true,
		"ip": false, "ip/48": false, "global": false, "descriptor": false, "ip, header:x-tenant": false,
	} {
		var out strings.Builder
		(&bucketReport{Source: source}).printIfUnspent(&out)
		assert.Contains(t, out.String(), "Nothing is spent", source)
		assert.Equal(t, want, strings.Contains(out.String(), "-source ip"), source)
	}
}

func TestBucketReport_saysIfAnAddressIsMeantAndNoneIsGiven(t *testing.T) {
	for key, isNone := range map[string]bool{
		"192.0.2.7": false, "2001:db8::9": false, "2001:db8::/64": false, "::ffff:192.0.2.7": false,
		"alice": true, "192.0.2.7:443": true, "2001:DB8::/64": true, "192.0.2": true, "[::1]:80": true,
	} {
		for _, source := range []string{"ip", "ip/48"} {
			var out strings.Builder
			(&bucketReport{Source: source, Key: key}).printIfUnspent(&out)
			assert.Equal(t, isNone, strings.Contains(out.String(), "This policy counts by address, and "+key+" is none.\n"), key)
		}
	}
}

func TestBucketReport_saysThatConditionsAreLeftOut(t *testing.T) {
	var r bucketReport
	require.NoError(t, json.Unmarshal([]byte(`{"policy":"api","key":"alice","conditions":["header:x-plan","ip"]}`), &r))
	var out strings.Builder
	r.print(&out)
	assert.Contains(t, out.String(), "\nThese are the limits of a request without header:x-plan and ip: overrides with conditions may give this client others.\n")
	out.Reset()
	(&bucketReport{}).print(&out)
	assert.NotContains(t, out.String(), "conditions")
}

// The JSON is an answer of the admin plane: see TestBuckets_inspectShowsTheQuotasOfThisPeriod there.
func TestBucketReport_showsBothKinds(t *testing.T) {
	const answer = `{"policy":"search","source":"ip","key":"192.0.2.7","store":"redis","now":"2026-03-29T12:00:00Z","limits":[
		{"name":"daily","kind":"quota","rate":"1000/day in Europe/Berlin","limit":1000,"used":%s,
			"period_start":"2026-03-28T23:00:00Z","period_end":"2026-03-29T22:00:00Z","updated_at":"2026-03-29T11:59:59.999Z"},
		{"name":"burst","kind":"bucket","rate":"3/7s","capacity":10,"limit":10,"tokens":8.5,"updated_at":"2026-03-29T12:00:00Z",
			"full_at":"%s","expires_at":"%[2]s"}]}`
	const heading = "192.0.2.7 under search, by ip, in redis\n\nBUCKET  RATE  TOKENS  CAPACITY  FULL IN  LAST UPDATE\n"
	const note = "\nNothing is spent: "
	for _, c := range []struct{ used, fullAt, bucket, quota, end string }{
		{"1500", "2026-03-29T12:00:03.5Z", "burst   3/7s  8.5     10        3.5s     2026-03-29 12:00:00.000\n", "1500  1000", ""},
		{"0", "2026-03-29T12:00:03.5Z", "burst   3/7s  8.5     10        3.5s     2026-03-29 12:00:00.000\n", "0     1000", ""},
		{"1", "2026-03-29T12:00:00Z", "burst   3/7s  8.5     10        full     2026-03-29 12:00:00.000\n", "1     1000", ""},
		{"0", "2026-03-29T12:00:00Z", "burst   3/7s  8.5     10        full     2026-03-29 12:00:00.000\n", "0     1000", note},
	} {
		var r bucketReport
		require.NoError(t, json.Unmarshal(fmt.Appendf(nil, answer, c.used, c.fullAt), &r))
		var out strings.Builder
		r.print(&out)
		want := heading + c.bucket + "\nQUOTA  RATE                       USED  OF    PERIOD FROM           TO                    ENDS IN  LAST UPDATE\n" +
			"daily  1000/day in Europe/Berlin  " + c.quota + "  2026-03-28T23:00:00Z  2026-03-29T22:00:00Z  10h      2026-03-29 11:59:59.999\n" + c.end
		assert.True(t, strings.HasPrefix(out.String(), want), "%s\nis not\n%s", &out, want)
		assert.Equal(t, c.end != "", strings.Contains(out.String(), note))
	}
}

// The JSON is an answer of the admin plane: see TestBuckets_inspectShowsThePermits there.
func TestBucketReport_showsPermitsWithTheirAges(t *testing.T) {
	for _, c := range []struct{ limits, want string }{
		{
			`{"name":"parallel","kind":"concurrency","limit":500,"held_total":107,"held":[
				{"id":"abc.5.1893553443000000","since":"2030-01-02T03:02:02Z","expires_at":"2030-01-02T03:04:06.4Z","cost":5},
				{"id":"oth\u001ber","expires_at":"2030-01-02T03:05:05Z"},
				{"id":"ahead","since":"2030-01-02T03:04:09Z","expires_at":"2030-01-02T03:05:06Z","cost":1}]},
			{"name":"idle","kind":"concurrency","limit":3,"held_total":0,"held":[]}`,
			`CONCURRENCY  HELD  OF
parallel     107   500
idle         0     3

PERMIT                  OF        HELD FOR  LEASE ENDS IN  COST
abc.5.1893553443000000  parallel  2m3s      1s             5
"oth\x1ber"             parallel  -         1m             -
ahead                   parallel  0s        1m1s           1
and 104 more, whose leases end later
`,
		},
		{
			`{"name":"parallel","kind":"concurrency","limit":2,"held_total":0,"held":[]}`,
			"CONCURRENCY  HELD  OF\nparallel     0     2\n\nNothing is spent: this client was not seen, or its buckets are full again, " +
				"its quotas' periods have ended, and it holds no permit.\n",
		},
	} {
		var r bucketReport
		require.NoError(t, json.Unmarshal([]byte(`{"policy":"search","source":"global","key":"-","store":"redis","now":"2030-01-02T03:04:05Z",
			"limits":[`+c.limits+`]}`), &r))
		var out strings.Builder
		r.print(&out)
		assert.Equal(t, "- under search, by global, in redis\n\n"+c.want, out.String())
	}
}
