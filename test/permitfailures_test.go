package test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// failingPolicies are permitPolicies with a failure mode.
func failingPolicies(t *testing.T, mode string) string {
	t.Helper()
	text := strings.ReplaceAll(permitPolicies, "    key: header:X-Client-ID\n", "    key: header:X-Client-ID\n    on_store_failure: "+mode+"\n")
	return harness.WriteFile(t, "policies.yaml", text)
}

// eventuallyReleased sends a release until the store answers, and returns whether that call ended the permit.
func (h holder) eventuallyReleased(permit, more string) (released bool) {
	h.T.Helper()
	require.Eventually(h.T, func() bool {
		a, err := h.Do(http.MethodPost, h.URL+"/v1/release", `{"permit":"`+permit+`"`+more+`}`)
		if err != nil || a.Status != http.StatusOK {
			return false
		}
		released = a.JSON(h.T)["released"].(bool)
		return true
	}, harness.Timeout, harness.Interval)
	return released
}

// assertUnavailable asserts that a permit can be neither released nor renewed, and that it says to send that again.
func (h holder) assertUnavailable(permit, more string) {
	h.T.Helper()
	for path, body := range map[string]string{
		"/v1/release": `{"permit":"` + permit + `"` + more + `}`, "/v1/renew": `{"permit":"` + permit + `"}`,
	} {
		a := h.post(path, body)
		assert.Equal(h.T, http.StatusServiceUnavailable, a.Status, "%s: %s", path, a.Body)
		assert.Equal(h.T, "1", a.Header.Get("Retry-After"))
		assert.Equal(h.T, "the store does not answer: send it again, it counts once", a.JSON(h.T)["detail"])
	}
}

// A release while Redis is gone is refused under every failure mode, and counts when it is sent again.
func TestPermits_aReleaseWhileRedisIsGoneIsSentAgain(t *testing.T) {
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t, redistest.Args("--appendonly", "yes", "--appendfsync", "always"))
			h := holder{harness.Start(t, harness.Settings{
				"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": failingPolicies(t, mode), "VELOCITY_TAKE_TIMEOUT": "1s",
			}), nil}
			permit := h.take(`,"cost":5`)
			server.Kill()
			for range 3 {
				h.assertUnavailable(permit, `,"cost":12`)
			}
			server.Restart()
			assert.True(t, h.eventuallyReleased(permit, `,"cost":12`))
			for range 9 {
				assert.False(t, h.eventuallyReleased(permit, `,"cost":12`))
			}
			assert.Equal(t, "2 88 49 988", h.left())
			h.Stop()
		})
	}
}

// A stalled Redis may carry out a release after the service has given up on it. It counts once all the same.
func TestPermits_aReleaseThatRedisCarriesOutLateCountsOnce(t *testing.T) {
	server := redistest.Start(t)
	h := holder{harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": failingPolicies(t, "open"), "VELOCITY_TAKE_TIMEOUT": "300ms",
	}), nil}
	var permit string
	require.Eventually(t, func() bool { // a slow machine must not look like an outage
		a := h.check(`,"cost":5`)
		permit = a["permit"].(string)
		if a["store"] == "redis" {
			return true
		}
		h.eventuallyReleased(permit, "")
		return false
	}, harness.Timeout, harness.Interval)
	parallel, tokens := h.storedLeft()
	require.InDelta(t, 1, parallel, 0)
	server.Pause()
	a := h.post("/v1/release", `{"permit":"`+permit+`","cost":12}`)
	assert.Equal(t, http.StatusServiceUnavailable, a.Status, a.Body)
	server.Resume()
	h.eventuallyReleased(permit, `,"cost":12`)
	assert.False(t, h.eventuallyReleased(permit, `,"cost":12`))
	parallel, charged := h.storedLeft()
	assert.InDelta(t, 2, parallel, 0)
	assert.InDelta(t, tokens-7, charged, 0, "once, in the step that ended the permit")
	h.Stop()
}

// storedLeft returns what Redis holds of the limits parallel and tokens.
func (h holder) storedLeft() (parallel, tokens float64) {
	h.T.Helper()
	require.Eventually(h.T, func() bool {
		a := h.check(`,"cost":0`)
		if a["store"] != "redis" {
			return false
		}
		limits := a["limits"].([]any)
		parallel = limits[0].(map[string]any)["remaining"].(float64)
		tokens = limits[1].(map[string]any)["remaining"].(float64)
		return true
	}, harness.Timeout, harness.Interval)
	return parallel, tokens
}

// What a failure mode grants holds nothing in Redis: releasing it is no error, and gives nothing away.
func TestPermits_ofAFailureMode(t *testing.T) {
	for mode, held := range map[string]bool{"open": false, "local": true} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t)
			h := holder{harness.Start(t, harness.Settings{
				"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": failingPolicies(t, mode), "VELOCITY_TAKE_TIMEOUT": "1s",
			}), nil}
			server.Kill()
			a := h.check(`,"cost":5`)
			require.Equal(t, true, a["allowed"])
			require.Equal(t, "fallback", a["store"])
			assert.InDelta(t, 60_000, a["permit_expires_after_ms"], 0)
			permit := a["permit"].(string)
			if held { // in this process: no Redis is needed
				assert.Equal(t, true, h.check("")["allowed"])
				assert.Equal(t, false, h.check("")["allowed"], "two are held")
			}
			assert.Equal(t, held, h.release(permit, `,"cost":2147483647`))
			assert.False(t, h.release(permit, ""))
			server.Restart()
			require.Eventually(t, func() bool { return h.check(`,"cost":0`)["store"] == "redis" }, harness.Timeout, 100*time.Millisecond)
			assert.False(t, h.release(permit, `,"cost":0`))
			assert.Equal(t, "2 100 50 1000", h.left(), "nothing of it is in Redis")
			h.Stop()
		})
	}
}
