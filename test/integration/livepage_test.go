//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// cell is the JavaScript for a cell of a table of the live page, by the row's name and the column.
func cell(table, row string, column int) string {
	return fmt.Sprintf(`document.querySelector('#%s tr[data-key="%s"]')?.children[%d].textContent`, table, row, column)
}

const stateText = `document.querySelector("#state .text").textContent`

func TestLivePage_numbersEqualTheMetrics(t *testing.T) {
	_, addrs := redistest.StartN(t, 2)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1500",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_TAKE_TIMEOUT": "5s",
	})
	decide := func(n int) {
		for i := range n {
			p.Resource("X-Client-ID: " + []string{"alice", "bob"}[i%4/3])
		}
	}
	decide(100)
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(stateText, "Ready")
	b.eventually(cell("policies", "default", 6), "100")
	decide(2000) // while the page is open

	allowed := p.Metric("velocity_decisions_total", `outcome="allowed"`)
	denied := p.Metric("velocity_decisions_total", `outcome="denied"`)
	require.InDelta(t, 2100, allowed+denied, 0)
	b.eventually(plain(cell("policies", "default", 6)), strconv.Itoa(int(allowed)))
	b.eventually(plain(cell("policies", "default", 7)), strconv.Itoa(int(denied)))
	b.eventually(plain(cell("top", " alice", 1)), strconv.Itoa(int(denied)))
	for _, shard := range []string{"shard-0", "shard-1"} {
		b.eventually(cell("shards", shard, 1), "✓ up")
	}
	b.eventually(`document.getElementById("p99").textContent !== "–"`, "true")
	b.eventually(`document.querySelector("#chart canvas").width > 300`, "true")
	assert.Empty(t, b.requestsBeyond(p.Admin))
	p.Stop()
	b.eventually(stateText, "No connection")
	b.clearConsole() // the refused connection
}

func TestLivePage_countsAsTheClientDoes(t *testing.T) {
	p, seen := mixedRun(t, "closed", 1400)
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(plain(cell("policies", "default", 6)), strconv.Itoa(seen.Allowed))
	b.eventually(plain(cell("policies", "default", 7)), strconv.Itoa(seen.Denied+seen.Unavailable))
}

// plain removes the separators of thousands.
func plain(expression string) string { return "(" + expression + ` ?? "").replaceAll(",", "")` }

func TestLivePage_showsADeadShardAndItsReturn(t *testing.T) {
	servers, addrs := redistest.StartN(t, 2)
	p := harness.Start(t, harness.Settings{"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ",")})
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(cell("shards", "shard-1", 1), "✓ up")

	servers[1].Kill()
	killed := time.Now()
	b.eventually(cell("shards", "shard-1", 1), "✕ down")
	t.Logf("a dead shard was shown after %v", time.Since(killed))
	b.eventually(stateText, "Degraded: a shard is down")
	b.eventually(cell("shards", "shard-0", 1), "✓ up")

	servers[1].Restart()
	b.eventually(cell("shards", "shard-1", 1), "✓ up")
	b.eventually(stateText, "Ready")
	p.Stop()
	b.clearConsole() // the lost connection
}

func TestLivePage_inspectsAndResetsOneClient(t *testing.T) {
	p := harness.Start(t, harness.Settings{
		"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "5", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	const key = `a/b?c=%2f&<img src=x onerror="alert(1)">`
	for range 7 {
		p.Resource("X-Client-ID: " + key)
	}
	b := openBrowser(t)
	b.run(
		chromedp.Navigate(p.Admin+"/"),
		chromedp.Click(chromedp.CSS(`#top button`)), // of the only client
	)
	const level = `document.querySelector("#buckets .level")?.textContent`
	b.eventually(level, "0 of 5 tokens")
	assert.Equal(t, key, b.text(`document.querySelector("#top .client").textContent`))
	assert.Equal(t, "0", b.text(`document.querySelectorAll("#top img, main p img").length`), "a key is shown as text")

	// If the user declines, nothing is reset.
	b.run(
		chromedp.Click(chromedp.CSS("#reset")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-no")), chromedp.WaitNotVisible(chromedp.CSS("#confirm")),
	)
	bucket := p.Admin + "/v1/buckets/default/" + url.PathEscape(key)
	assert.Contains(t, p.MustDo(http.MethodGet, bucket, "").Body, `"tokens":0`)

	b.run(
		chromedp.Click(chromedp.CSS("#reset")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-yes")),
	)
	b.eventually(level, "5 of 5 tokens")
	assert.Contains(t, p.MustDo(http.MethodGet, bucket, "").Body, `"tokens":5`)

	b.run(
		chromedp.SetValue(chromedp.CSS("#inspect-policy"), "other"), chromedp.Click(chromedp.CSS("#inspect button")),
	)
	b.eventually(`document.getElementById("inspect-status").textContent`, "Not shown: policy: there is no policy of this name")
	b.clearConsole() // a 404 is on the console
	assert.Empty(t, b.requestsBeyond(p.Admin))
}

func TestLivePage_showsQuotas(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: plan, quota: 2000/year, zone: Europe/Berlin, anchor: 2026-02-15 }
      - { name: requests, quota: 10/8760h, cost: 1 }
`)})
	a := p.MustDo(http.MethodPost, p.URL+"/v1/charge", `{"key":"alice","cost":2500}`)
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	p.Resource("X-Client-ID: bob")
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(cell("policies", "default", 2), "2000/year in Europe/Berlin from 2026-02-15 plan10/8760h, 1 a request requests")

	shown := func(client, limit, part string) string {
		b.run(
			chromedp.SetValue(chromedp.CSS("#inspect-policy"), "default"), chromedp.SetValue(chromedp.CSS("#inspect-key"), client),
			chromedp.SendKeys(chromedp.CSS("#inspect-key"), "\r"), // a click could miss, as the tables above grow
		)
		b.eventually(`document.getElementById("inspect-status").textContent.split(" ")[0]`, client)
		return b.text(fmt.Sprintf(`document.querySelector('#buckets [data-key="%s"] .%s').textContent`, limit, part))
	}
	assert.Equal(t, "2,500 of 2,000 used", shown("alice", "plan", "level"))
	assert.Equal(t, "0 of 10 used", shown("alice", "requests", "level"), "a charge leaves a limit with a cost of its own alone")
	assert.Equal(t, "1 of 10 used", shown("bob", "requests", "level"))
	assert.Equal(t, "quota of 10/8760h", shown("bob", "requests", "rate"))
	assert.Regexp(t, `^the period ends in \d`, shown("bob", "requests", "full"))
	p.Stop()
	b.clearConsole() // the lost connection
}

func TestLivePage_showsAndEndsPermits(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: parallel, concurrent: 5, lease: 1h }
      - { name: tokens, rate: 1/h, capacity: 100 }
`)})
	for range 2 {
		a := p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key":"alice","cost":8}`)
		require.Equal(t, http.StatusOK, a.Status, a.Body)
	}
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(cell("policies", "default", 2), "5 at once, lease 1h parallel1/h, up to 100 tokens")
	const hidden = `document.getElementById("end-permits").hidden`
	assert.Equal(t, "true", b.text(hidden))
	b.run(
		chromedp.SetValue(chromedp.CSS("#inspect-policy"), "default"), chromedp.SetValue(chromedp.CSS("#inspect-key"), "alice"),
		chromedp.SendKeys(chromedp.CSS("#inspect-key"), "\r"),
	)
	const level = `document.querySelector('#buckets [data-key="parallel"] .level')?.textContent`
	b.eventually(level, "2 of 5 permits held")
	const permits = `[...document.querySelectorAll('#buckets [data-key="parallel"] .permits li')].map((li) => li.textContent)`
	assert.Equal(t, "2", b.text(permits+".length"))
	for i := range 2 {
		assert.Regexp(t, `^held for \d+ (s|µs), cost 8, lease ends in 59 min \d+ s$`, b.text(fmt.Sprintf("%s[%d]", permits, i)))
	}
	b.eventually(`/^held for [1-9]/.test(`+permits+`[0])`, "true") // it counts on
	assert.Equal(t, "84 of 100 tokens", b.text(`document.querySelector('#buckets [data-key="tokens"] .level').textContent`))

	// If the user declines, none ends.
	b.run(
		chromedp.Click(chromedp.CSS("#end-permits")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-no")), chromedp.WaitNotVisible(chromedp.CSS("#confirm")),
	)
	inspected := func() string { return p.MustDo(http.MethodGet, p.Admin+"/v1/buckets/default/alice", "").Body }
	assert.Contains(t, inspected(), `"held_total":2`)
	b.run(chromedp.Click(chromedp.CSS("#end-permits")), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	assert.Equal(t, "End this client’s permits?No permit is held any more by alice under default. "+
		"The requests that hold them go on, while others may take their place.CancelEnd permits",
		b.text(`document.getElementById("confirm").textContent.replaceAll("\n", "").replace(/ {2,}/g, "")`))
	b.run(chromedp.Click(chromedp.CSS("#confirm-yes")))
	b.eventually(`document.getElementById("inspect-status").textContent`, "Ended 2 permits of alice under default.")
	b.eventually(level, "0 of 5 permits held")
	assert.Equal(t, "0", b.text(permits+".length"))
	assert.Contains(t, inspected(), `"held_total":0`)
	assert.Equal(t, "84 of 100 tokens", b.text(`document.querySelector('#buckets [data-key="tokens"] .level').textContent`), "they stay spent")
	p.Stop()
	b.clearConsole() // the lost connection
}

func TestLivePage_asksForTheToken(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	b := openBrowser(t)
	signIn := func(token string) {
		b.run(
			chromedp.WaitVisible(chromedp.CSS("#sign-in")), chromedp.SendKeys(chromedp.CSS("#token"), token+"\r"),
		)
	}
	b.run(chromedp.Navigate(p.Admin + "/"))
	signIn("wrong")
	b.eventually(`document.getElementById("sign-in-note").textContent`, "That was not the token.")
	signIn("secret")
	b.eventually(stateText, "Ready")
	b.clearConsole() // each 401 is on the console
	assert.Empty(t, b.requestsBeyond(p.Admin))
}

// The page works with a screen reader and without a mouse: each control has a name, and the keyboard reaches it.
func TestLivePage_isAccessible(t *testing.T) {
	p := harness.Start(t, nil)
	p.Resource()
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(cell("policies", "default", 6), "1")

	tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	require.NoError(t, err)
	named := map[string]int{}
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		role := strings.Trim(string(n.Role.Value), `"`)
		switch role {
		case "button", "textbox", "combobox", "checkbox", "table", "img", "image", "heading", "region", "link":
			name := ""
			if n.Name != nil {
				name = strings.Trim(string(n.Name.Value), `"`)
			}
			assert.NotEmpty(t, name, "a %s without a name", role)
			named[role]++
		}
	}
	for _, role := range []string{"button", "textbox", "combobox", "heading"} {
		assert.Positive(t, named[role], role)
	}

	reached := map[string]bool{}
	for range 30 {
		b.run(chromedp.KeyEvent("\t"))
		reached[b.text(`document.activeElement.id || document.activeElement.className`)] = true
	}
	for _, id := range []string{"skip", "chart-policy", "top-policy", "top-kind", "inspect-policy", "inspect-key", "inspect-ip"} {
		assert.True(t, reached[id], "%s cannot be reached by the keyboard", id)
	}
}
