package test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

const sharedSlots = permitPolicies + `
  - name: shares
    key: header:X-Client-ID
    match: { path: "/shares" }
    limits: [ { use: slots } ]
shared:
  - { name: slots, key: header:X-Tenant, concurrent: 3, lease: 60s }
`

// heldPermits returns the permits that the admin plane shows of a client's first limit, which must be this many.
func (h holder) heldPermits(n int, path string) []any {
	h.T.Helper()
	a := h.MustDo(http.MethodGet, h.Admin+"/v1/buckets/"+path, "")
	require.Equal(h.T, http.StatusOK, a.Status, a.Body)
	limit := a.JSON(h.T)["limits"].([]any)[0].(map[string]any)
	assert.Equal(h.T, "concurrency", limit["kind"])
	assert.InDelta(h.T, n, limit["held_total"], 0)
	held := limit["held"].([]any)
	assert.Len(h.T, held, n)
	return held
}

// end ends permits, of which this many must be held.
func (h holder) end(n int, path string) {
	h.T.Helper()
	a := h.MustDo(http.MethodDelete, h.Admin+"/v1/permits/"+path, "")
	require.Equal(h.T, http.StatusOK, a.Status, a.Body)
	assert.Equal(h.T, map[string]any{"ended": float64(n)}, a.JSON(h.T))
}

func TestAdminPermits_areShownAndEnded(t *testing.T) {
	overStores(t, sharedSlots, permitsShownAndEnded)
}

func permitsShownAndEnded(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	h.heldPermits(0, "default/alice")
	before := time.Now()
	first, second := h.take(`,"cost":5`), h.take(`,"cost":5`)
	held := h.heldPermits(2, "default/alice")
	for _, permit := range held {
		permit := permit.(map[string]any)
		assert.InDelta(t, 5, permit["cost"], 0)
		for member, want := range map[string]time.Time{"since": before, "expires_at": before.Add(time.Minute)} {
			at, err := time.Parse(time.RFC3339Nano, permit[member].(string))
			require.NoError(t, err)
			assert.WithinDuration(t, want, at, 20*time.Second)
		}
	}
	id := held[0].(map[string]any)["id"].(string)
	if !strings.HasPrefix(first, id+".") {
		first, second = second, first
	}
	h.end(1, "default/alice/"+id)
	h.end(0, "default/alice/"+id)
	assert.False(t, h.release(first, `,"cost":50`), "it charges nothing any more")
	assert.Equal(t, http.StatusNotFound, h.post("/v1/renew", `{"permit":"`+first+`"}`).Status)
	assert.Equal(t, "1 90 48 990", h.left(), "what it took stays spent")
	h.end(1, "default/alice?source=header:x-client-id")
	assert.False(t, h.release(second, ""))
	assert.Equal(t, "2 90 48 990", h.left())

	third := h.take("")
	require.Equal(t, http.StatusNoContent, h.MustDo(http.MethodDelete, h.Admin+"/v1/buckets/default/alice", "").Status)
	h.heldPermits(1, "default/alice")
	assert.True(t, h.release(third, ""), "a reset ends no permit")

	for path, detail := range map[string]string{
		"default/acme?source=header:x-tenant": `policy: \"default\": has no concurrency limit by header:x-tenant, so that no one holds permits`,
		"default/alice/a%20b":                 `id: \"a b\": must be the ID of a permit, as an inspection shows it`,
	} {
		a := h.MustDo(http.MethodDelete, h.Admin+"/v1/permits/"+path, "")
		assert.Equal(t, http.StatusUnprocessableEntity, a.Status, path)
		assert.Contains(t, a.Body, detail)
	}

	shared := h.take(`,"policy":"shares"`)
	h.heldPermits(1, "shared%2Fslots/acme")
	h.end(1, "shared%2Fslots/acme")
	assert.False(t, h.release(shared, ""))
}

func TestAdminPermits_ofTheCommands(t *testing.T) {
	overStores(t, permitPolicies, permitsOfTheCommands)
}

func permitsOfTheCommands(t *testing.T, p *harness.Process) {
	h := holder{p, nil}
	h.take(`,"cost":5`)
	h.take("")
	inspected := adminCommand(t, p, 0, "inspect", "alice")
	assert.Regexp(t, `(?m)^CONCURRENCY  HELD  OF\nparallel     2     2$`, inspected)
	assert.Regexp(t, `(?m)^[a-z2-7]{16}\.5\.\d+  parallel  \d+s +(1m|\d+s) +5$`, inspected)
	assert.Contains(t, adminCommand(t, p, 2, "reset", "-permits", "alice"), "there is no terminal to ask at: say -yes")
	assert.Equal(t, "Ended 2 permits of alice under default, by header:x-client-id.\n", adminCommand(t, p, 0, "reset", "-permits", "-yes", "alice"))
	assert.Equal(t, "2 94 48 994", h.left())
	assert.JSONEq(t, `{"ended":0}`, adminCommand(t, p, 0, "reset", "-permits", "-yes", "-json", "alice"))
	assert.Contains(t, adminCommand(t, p, 1, "reset", "-permits", "-yes", "-policy", "waits", "alice"),
		`policy: "waits": has no concurrency limit by header:x-client-id`)
	assert.Contains(t, adminCommand(t, p, 0, "inspect", "-policy", "short", "alice"), "Nothing is spent: ")
}
