//go:build integration

package integration

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// No request has the key of an override that was set before the policy's key changed, and the buckets of such a client cannot be shown.
func TestLivePage_endsAnOverrideOfAnOldKey(t *testing.T) {
	const policies = "policies: [ { name: default, key: KEY, limits: [ { rate: 1/h, capacity: 5 } ] } ]"
	file := harness.WriteFile(t, "policies.yaml", strings.Replace(policies, "KEY", "header:X-Client-ID", 1))
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": file})
	require.Equal(t, http.StatusOK, p.MustDo(http.MethodPut, p.Admin+"/v1/overrides/default/alice", `{"block":true}`, "Content-Type: application/json").Status)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(policies, "KEY", "['header:X-Client-ID', ip]", 1)), 0o600))
	require.Equal(t, http.StatusOK, p.MustDo(http.MethodPost, p.Admin+"/v1/reload", "").Status)
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	const reason = "ignored: the policy's key has changed since: this override applies to no client, and can be ended"
	b.eventually(`document.querySelector("#overrides tr > :nth-child(2)")?.textContent`, "blocked ("+reason+")")
	b.run(chromedp.Click(chromedp.CSS("#overrides button")))
	b.eventually(`document.getElementById("inspect-override").textContent`, "Override: blocked ("+reason+")")
	b.clearConsole() // the 422 of the buckets
	b.run(
		chromedp.Click(chromedp.CSS("#end-override")), chromedp.WaitVisible(chromedp.CSS("#confirm")), chromedp.Click(chromedp.CSS("#confirm-yes")),
	)
	b.eventually(`document.getElementById("inspect-status").textContent`, "Ended the override of alice under default.")
	b.eventually(`document.getElementById("no-overrides").hidden`, "false")
	assert.Equal(t, "true", b.text(`document.getElementById("end-override").hidden`))
	p.Stop()
	b.clearConsole() // another 422, and the lost connection
}

func TestLivePage_setsListsAndEndsOverrides(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
shared:
  - { name: tenant, key: header:X-Tenant, quota: 1000/day }
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: burst, rate: 1/h, capacity: 5 }
      - { name: daily, quota: 100/day, cost: 1 }
      - { use: tenant }
`)})
	const key = `a/b?c=%2f&<img src=x onerror="alert(1)">`
	const note = `<b onclick="alert(1)">ticket</b> 123`
	stored := func() string {
		return p.MustDo(http.MethodGet, p.Admin+"/v1/overrides/default/"+url.PathEscape(key), "").Body
	}
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(`document.getElementById("overrides-count").textContent`,
		"0 in all, in this process’s memory: they end with it, and other nodes do not have them.")
	b.eventually(`document.getElementById("no-overrides").textContent`, "No client of default has an override.")
	assert.Equal(t, "defaultshared/tenant", b.text(`[...document.querySelectorAll("#overrides-policy option")].map((o) => o.value).join("")`))
	b.run(
		chromedp.SetValue(chromedp.CSS("#inspect-policy"), "default"), chromedp.SetValue(chromedp.CSS("#inspect-key"), key),
		chromedp.SendKeys(chromedp.CSS("#inspect-key"), "\r"),
	)
	b.eventually(`document.getElementById("override").disabled`, "false")
	assert.Equal(t, "true", b.text(`document.getElementById("end-override").hidden`))

	// The fields are those of the policy's own limits; what is left empty stays.
	b.run(chromedp.Click(chromedp.CSS("#override")), chromedp.WaitVisible(chromedp.CSS("#override-dialog")))
	const fields = `[...document.querySelectorAll("#override-limits fieldset")].map((f) => f.textContent + [...f.querySelectorAll("input")].map((i) => i.placeholder)).join("; ")`
	assert.Equal(t, "burstratecapacity1/h,5; dailyquota100/day", b.text(fields))
	b.run(
		chromedp.SendKeys(chromedp.CSS("#override-limits fieldset:first-child label:last-child input"), "50"),
		chromedp.SendKeys(chromedp.CSS("#override-limits fieldset:last-child input"), "1000/d"),
		chromedp.SendKeys(chromedp.CSS("#override-note"), note), chromedp.Click(chromedp.CSS("#override-yes")),
	)
	b.eventually(`document.getElementById("override-status").textContent.startsWith("Not set: ")`, "true")
	b.clearConsole() // a 422 is on the console
	b.run(chromedp.SendKeys(chromedp.CSS("#override-limits fieldset:last-child input"), "ay\r"))
	b.eventually(`document.getElementById("inspect-status").textContent`, "Set: "+key+" under default has an override.")
	b.eventually(`document.getElementById("inspect-override").textContent`, "Override: burst: capacity 50; daily: quota 1000/day; note: "+note)
	assert.Contains(t, stored(), `"limits":[{"name":"burst","capacity":50},{"name":"daily","quota":"1000/day"}]`)
	b.eventually(`document.querySelector('#buckets [data-key="burst"] .level').textContent`, "50 of 50 tokens")
	b.eventually(`[...document.querySelectorAll("#overrides tr > *")].slice(0, 4).map((c) => c.textContent).join("|")`,
		key+"|burst: capacity 50; daily: quota 1000/day|–|"+note)
	assert.Equal(t, "0", b.text(`document.querySelectorAll("main table img, main p img, main table b, main p b").length`), "keys and notes are shown as text")
	b.eventually(`document.getElementById("overrides-count").textContent.startsWith("1 in all, ")`, "true")

	// The dialog begins with what is in force.
	b.run(chromedp.Click(chromedp.CSS("#override")), chromedp.WaitVisible(chromedp.CSS("#override-dialog")))
	assert.Equal(t, note, b.text(`document.getElementById("override-note").value`))
	assert.Equal(t, "50", b.text(`document.querySelector('#override-limits input[type="number"]').value`))
	b.run(
		chromedp.SetValue(chromedp.CSS("#override-kind"), "block"),
		chromedp.SetValue(chromedp.CSS("#override-expires"), "2127-01-31T00:00:05"), chromedp.Click(chromedp.CSS("#override-yes")),
	)
	b.eventually(`document.querySelector("#overrides tr > :nth-child(2)")?.textContent`, "blocked")
	assert.Contains(t, stored(), `"block":true,"expires_at":"2127-01-3`)

	// If the user declines, nothing ends.
	b.run(
		chromedp.Click(chromedp.CSS("#overrides button")), chromedp.Click(chromedp.CSS("#end-override")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-no")), chromedp.WaitNotVisible(chromedp.CSS("#confirm")),
	)
	require.Contains(t, stored(), `"block":true`)
	b.run(
		chromedp.Click(chromedp.CSS("#end-override")), chromedp.WaitVisible(chromedp.CSS("#confirm")), chromedp.Click(chromedp.CSS("#confirm-yes")),
	)
	b.eventually(`document.getElementById("inspect-status").textContent`, "Ended the override of "+key+" under default.")
	b.eventually(`document.getElementById("no-overrides").hidden`, "false")
	assert.Contains(t, stored(), "this client has no override")
	for _, beyond := range b.requestsBeyond(p.Admin) {
		assert.True(t, strings.HasPrefix(beyond, "data:image/svg+xml;"), "%s is not Chromium's own sign in a field for a time", beyond)
	}
	p.Stop()
	b.clearConsole() // the lost connection
}
