package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPrintUntouched_namesTheAddressWhereItStandsIn(t *testing.T) {
	for source, want := range map[string]bool{
		"header:x-api-key": true, "cookie:sid": true, "query:key": true,
		"ip": false, "ip/48": false, "global": false, "descriptor": false, "ip, header:x-tenant": false,
	} {
		var out strings.Builder
		printUntouched(&out, &bucketReport{Source: source})
		assert.Contains(t, out.String(), "No token is missing", source)
		assert.Equal(t, want, strings.Contains(out.String(), "-source ip"), source)
	}
}
