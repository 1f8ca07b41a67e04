package policies

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The log ends its day in Berlin, whose clock its lines show.
func TestSimulate_aQuotasDayEndsInItsZone(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(log, []byte(`192.0.2.1 - - [28/Nov/2026:18:00:00 +0100] "GET / HTTP/1.1" 200 5
192.0.2.1 - - [28/Nov/2026:23:59:59 +0100] "GET / HTTP/1.1" 200 5
192.0.2.1 - - [29/Nov/2026:00:00:00 +0100] "GET / HTTP/1.1" 200 5
192.0.2.1 - - [29/Nov/2026:00:30:00 +0100] "GET / HTTP/1.1" 200 5
`), 0o600))
	for zone, want := range map[string]string{
		", zone: Europe/Berlin": "192.0.2.1  4         2       2026-11-28T22:59:59Z  2026-11-28T23:30:00Z",
		"":                      "192.0.2.1  4         3       2026-11-28T22:59:59Z  2026-11-28T23:30:00Z",
	} {
		file := policyFile(t, "policies:\n- name: daily\n  limits: [ { quota: 1/day"+zone+" } ]\n")
		assert.Contains(t, output(t, "simulate", "-policies", file, log), want)
	}
}

func TestSimulate_saysWhatItDoesNotCheck(t *testing.T) {
	log, decisions := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "decisions")
	line := `192.0.2.1 - - [28/Nov/2026:18:00:00 +0100] "GET / HTTP/1.1" 200 5` + "\n"
	require.NoError(t, os.WriteFile(log, []byte(line+line+line+line), 0o600))
	file := policyFile(t, `policies:
  - name: api
    max_wait: 500ms
    limits: [ { name: burst, rate: 2/s, capacity: 2 }, { name: parallel, concurrent: 1 } ]
`)
	found := output(t, "simulate", "-policies", file, "-decisions", decisions, log)
	assert.Contains(t, found, "\napi     burst     1\napi     parallel  not checked\n")
	assert.Contains(t, found, "\napi: 1 request would have waited, for up to 500 ms\n"+
		"api: the concurrency limit parallel is not checked, since a log does not say how many requests are under way at once\n")
	written, err := os.ReadFile(decisions)
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(string(written), `"wait_ms":500`))
	assert.Equal(t, 1, strings.Count(string(written), `"denied_by":["burst"]`))
	assert.Contains(t, output(t, "simulate", "-json", "-policies", file, log), `"not_checked": true`)
}
