package overridejson_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/overridejson"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

var now = time.Date(2027, 1, 30, 0, 0, 0, 0, time.UTC)

func TestParse_readsWhatOfWrites(t *testing.T) {
	for body, want := range map[string]ports.Override{
		`{"exempt":true}`:                      {Exempt: true},
		`{"limits":[{"rate":"5/s"}]}`:          {Limits: []limitspec.Spec{{Rate: "5/s"}}},
		`{"block":true,"note":"ticket \"9\""}`: {Block: true, Note: `ticket "9"`},
		`{"limits":[{"name":"burst","rate":"50/s","capacity":100},{"name":"daily","cost":3}],"expires_at":"2027-01-31T00:00:00Z"}`: {
			Limits:    []limitspec.Spec{{Name: "burst", Rate: "50/s", Capacity: 100}, {Name: "daily", Cost: 3}},
			ExpiresAt: now.Add(24 * time.Hour),
		},
		`{"limits":[{"name":"a","quota":"9/day","zone":"Europe/Berlin","anchor":"2026-01-15"},{"name":"b","concurrent":5,"lease":"60s"}]}`: {
			Limits: []limitspec.Spec{{Name: "a", Quota: "9/day", Zone: "Europe/Berlin", Anchor: "2026-01-15"}, {Name: "b", Concurrent: 5, Lease: "60s"}},
		},
	} {
		got, err := overridejson.Parse([]byte(body), now)
		require.NoError(t, err, body)
		assert.Equal(t, want, got)
		written, err := json.Marshal(overridejson.Of(&got))
		require.NoError(t, err)
		assert.Equal(t, body, string(written))
	}
	other, err := overridejson.Parse([]byte(` {"exempt":true,"expires_at":"2027-01-31T05:00:00.5+05:00","limits":[],"block":false,"note":""} `), now)
	require.NoError(t, err)
	assert.Equal(t, ports.Override{Exempt: true, ExpiresAt: now.Add(24*time.Hour + time.Second/2)}, other)
}

func TestOf_saysWhoseAndSinceWhen(t *testing.T) {
	written, err := json.Marshal(overridejson.Of(&ports.Override{
		Key: "192.0.2.7", Source: "ip", Block: true, SetAt: time.Date(2027, 1, 30, 1, 0, 0, 5000, time.FixedZone("", 3600)),
		Unfit: errors.New("limits: burst is gone"),
	}))
	require.NoError(t, err)
	assert.JSONEq(t, `{"key":"192.0.2.7","source":"ip","block":true,"set_at":"2027-01-30T00:00:00.000005Z","unfit":"limits: burst is gone"}`, string(written))
}

func TestParse_namesWhatIsWrong(t *testing.T) {
	const oneOf = ": an override has limits, or exempt, or block"
	for body, want := range map[string]string{
		``:                              "body: is not JSON: it ends too early",
		`  `:                            "body: is not JSON: it ends too early",
		`{"exempt":true`:                "body: is not JSON: it ends too early",
		`{"exempt":true}}`:              "body: is not JSON at byte 15",
		`{"exempt":true}{}`:             "body: is not JSON at byte 15",
		`{exempt:true}`:                 "body: is not JSON at byte 1",
		"{\"note\":\"\xff\"}":           "body: is not JSON at byte 9",
		`null`:                          "body: must not be null",
		`7{}`:                           "body: must be an object",
		`[]`:                            "body: must be an object",
		`{"exempt":null}`:               "exempt: must not be null",
		`{"limits":[{"rate":null}]}`:    "limits[0].rate: must not be null",
		`{"exempt":true,"exempt":true}`: "exempt: is repeated",
		`{"limits":[{"name":"a","rate":"1/s","rate":"1/s"}]}`: "limits[0].rate: is repeated",
		`{"Exempt":true}`:                                     "Exempt: is not a known field",
		`{"set_at":"2027-01-31T00:00:00Z"}`:                   "set_at: is not a known field",
		`{"limits":[{"name":"a"},{"name":"b","key":"ip"}]}`:   "limits[1].key: is not a known field",
		`{"exempt":"true"}`:                                   "exempt: must be true or false",
		`{"limits":{}}`:                                       "limits: must be an array",
		`{"limits":["a"]}`:                                    "limits[0]: must be an object",
		`{"limits":[{"name":5}]}`:                             "limits[0].name: must be a string",
		`{"limits":[{"name":"a","capacity":"5"}]}`:            "limits[0].capacity: must be a whole number, without fraction and exponent",
		`{"limits":[{"name":"a","capacity":1.5}]}`:            "limits[0].capacity: must be a whole number, without fraction and exponent",
		`{"limits":[{"name":"a","capacity":1e3}]}`:            "limits[0].capacity: must be a whole number, without fraction and exponent",
		`{"exempt":true,"expires_at":"tomorrow"}`:             "expires_at: must be a time of RFC 3339, as in 2027-01-31T00:00:00Z",
		`{"exempt":true,"expires_at":""}`:                     "expires_at: must be a time of RFC 3339, as in 2027-01-31T00:00:00Z",
		`{"exempt":true,"note":7}`:                            "note: must be a string",
		`{"` + strings.Repeat("n", 200) + `":1}`:              strings.Repeat("n", 128) + "...: is not a known field",
		`{"exempt":true,"expires_at":"2027-01-30T00:00:00Z"}`: "422 expires_at: has passed",
		`{}`:                           "422 limits: there is none" + oneOf,
		`{"limits":[],"exempt":false}`: "422 limits: there is none" + oneOf,
		`{"exempt":true,"block":true}`: "422 block: there is exempt, too" + oneOf,
		`{"block":true,"limits":[{"name":"a","cost":1}]}`:                      "422 limits: there is exempt or block, too" + oneOf,
		`{"limits":[` + strings.Repeat(`{"name":"a"},`, 99) + `{"name":"a"}]}`: "422 limits: holds more than",
		`{"limits":[{"name":"a","capacity":0}]}`:                               "422 limits[0].capacity: must be at least 1",
		`{"limits":[{"name":"a","cost":-1}]}`:                                  "422 limits[0].cost: must be at least 1",
		`{"limits":[{"name":"a","concurrent":99999999999999999999}]}`:          "422 limits[0].concurrent: must be at most 1000000000000",
		`{"limits":[{"name":"","rate":"5/s"}]}`:                                "422 limits[0].name: must not be empty",
		`{"limits":[{"name":"a","zone":""}]}`:                                  "422 limits[0].zone: must not be empty",
	} {
		got, err := overridejson.Parse([]byte(body), now)
		text, isRange := strings.CutPrefix(want, "422 ")
		kind := problem.ErrMalformed
		if isRange {
			kind = problem.ErrOutOfRange
		}
		require.ErrorIs(t, err, kind, body)
		assert.True(t, strings.HasPrefix(err.Error(), text), "%s: %v", body, err)
		assert.Zero(t, got)
	}
}

// FuzzParse: no body makes Parse panic, and what it accepts is written and read again as the same override.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"limits":[{"name":"burst","rate":"50/s","capacity":100}],"expires_at":"2027-01-31T00:00:00Z","note":"x"}`))
	f.Add([]byte(`{"exempt":true,"limits":[]}`))
	f.Add([]byte(`{"block":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := overridejson.Parse(body, now)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		written, err := json.Marshal(overridejson.Of(&o))
		require.NoError(t, err)
		again, err := overridejson.Parse(written, now)
		require.NoError(t, err, string(written))
		require.Equal(t, o, again)
	})
}
