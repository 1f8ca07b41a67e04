package decisionapi

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseChecks_whatIsNoListFailsAsAWhole(t *testing.T) {
	for body, want := range map[string]string{
		`{"checks":null}`:                        "checks: must be an array",
		`{"checks":{}}`:                          "checks: must be an array",
		`{"checks":[],"checks":[]}`:              "checks: is repeated",
		`{"check":[]}`:                           "check: is not a known field",
		`{}`:                                     "checks: is missing",
		`null`:                                   "body: must be an object",
		`{"checks":[]}]`:                         "body: there is something after its end",
		`{"checks":[{]}`:                         "body: is not JSON at byte 12",
		`{"checks":[{"kee":1]}`:                  "body: is not JSON at byte 19",
		`{"checks":[{"key":tru}]}`:               "body: is not JSON at byte 21",
		`{"checks":[{},7`:                        "body: is not JSON: it ends too early",
		`{"checks":[{}`:                          "body: is not JSON: it ends too early",
		`{"` + strings.Repeat("n", 200) + `":1}`: strings.Repeat("n", 128) + "...: is not a known field",
	} {
		_, err := parseChecks(nil, []byte(body))
		require.EqualError(t, err, want, body)
	}
	_, err := parseChecks(nil, []byte(`{"checks":[`+strings.Repeat("{},", 1000)+`{}]}`))
	require.EqualError(t, err, "checks: holds more than 1000")
}

// wrongChecks are JSON, but no checks.
var wrongChecks = map[string]string{
	`7`:                                 "check: must be an object",
	`"a"`:                               "check: must be an object",
	`null`:                              "check: must be an object",
	`[]`:                                "check: must be an object",
	`[{"key":"a"},[{"key":"b"}]]`:       "check: must be an object",
	`{"kee":1}`:                         "kee: is not a known field",
	`{"kee":{"a":[1,{}]},"key":"a"}`:    "kee: is not a known field",
	`{"key":"a","":1}`:                  "check: is not a known field",
	`{"key":1}`:                         "key: must be a string",
	`{"key":[{"a":[]}],"cost":1}`:       "key: must be a string",
	`{"key":"a","key":"b"}`:             "key: is repeated",
	`{"key":"a","\u006bey":"a"}`:        "key: is repeated",
	`{"policy":"a","policy":"b"}`:       "policy: is repeated",
	`{"cost":1,"cost":1}`:               "cost: is repeated",
	`{"attributes":{},"attributes":{}}`: "attributes: is repeated",
	`{"cost":"1"}`:                      "cost: must be a whole number",
	`{"cost":1.5}`:                      "cost: must be a whole number, without fraction and exponent",
	`{"cost":99999999999999999999}`:     "cost: must be at most 2147483647",
	"{\"key\":\"\xff\"}":                "key: is not UTF-8",
	"{\"\xff\":1}":                      "\ufffd: is not UTF-8",
	`{"key":"\ud800"}`:                  "key: has half of a surrogate pair",
	`{"attributes":null}`:               "attributes: must be an object",
	`{"attributes":{"tenant":"acme"}}`:  "attributes.tenant: must be named ip, header:NAME, cookie:NAME, query:NAME or claim:NAME",
	`{"attributes":{"header:x":[]},"cost":1}`:                  "attributes.header:x: must be a string",
	`{"attributes":{"header:x":"1","header:X":"2"},"key":"a"}`: "attributes.header:X: is repeated",
	`{"attributes":{"ip":"::1","ip":"::1"}}`:                   "attributes.ip: is repeated",
	`{"attributes":{"ip":"x"}}`:                                "attributes.ip: is no address",
	"{\"attributes\":{\"header:x\":\"\xfe\"}}":                 "attributes.header:x: is not UTF-8",
	`{"key":"` + strings.Repeat("a", 100_000) + `"}`:           "check: must be at most 65536 bytes",
}

func TestParseChecks_aWrongCheckLeavesItsNeighboursAlone(t *testing.T) {
	for wrong, want := range wrongChecks {
		got, err := parseChecks(nil, []byte(`{"checks":[{"key":"before"}, `+wrong+` ,{"key":"after"},`+wrong+`]}`))
		require.NoError(t, err, wrong)
		require.Len(t, got, 4, wrong)
		require.NoError(t, got[0].invalid, wrong)
		require.EqualError(t, got[1].invalid, want, wrong)
		require.NoError(t, got[2].invalid, wrong)
		require.EqualError(t, got[3].invalid, want, wrong)
		assert.Equal(t, "before", got[0].key)
		assert.Equal(t, "after", got[2].key)
	}
}

// A check that is at most as long as the body of /v1/check may be is accepted among others, too.
func TestParseChecks_theLongestCheck(t *testing.T) {
	longest := `{"key":"` + strings.Repeat("a", maxCheck-len(`{"key":""}`)) + `"}`
	got, err := parseChecks(nil, []byte(`{"checks":[`+longest+`,`+longest+`]}`))
	require.NoError(t, err)
	require.NoError(t, got[0].invalid)
	require.NoError(t, got[1].invalid)
}
