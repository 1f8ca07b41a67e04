//go:build doors

package test

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
)

// cell is a cell of a table of the live page, by its row's name and its column.
func cell(table, row string, column int) string {
	return fmt.Sprintf(`document.querySelector('#%s tr[data-key="%s"]')?.children[%d].textContent`, table, row, column)
}

const stateText = `document.querySelector("#state .text").textContent`

func TestLivePage_numbersEqualTheMetrics(t *testing.T) {
	_, addrs := redistest.StartN(t, 2)
	p := start(t, settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1500",
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_TAKE_TIMEOUT": "5s",
	})
	decide := func(n int) {
		for i := range n {
			p.resource("X-Client-ID: " + []string{"alice", "bob"}[i%4/3])
		}
	}
	decide(100)
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.admin + "/"))
	b.eventually(stateText, "Ready")
	b.eventually(cell("policies", "default", 6), "100")
	decide(2000) // while the page looks on

	allowed := p.metric("velocity_decisions_total", `outcome="allowed"`)
	denied := p.metric("velocity_decisions_total", `outcome="denied"`)
	require.InDelta(t, 2100, allowed+denied, 0)
	b.eventually(plain(cell("policies", "default", 6)), strconv.Itoa(int(allowed)))
	b.eventually(plain(cell("policies", "default", 7)), strconv.Itoa(int(denied)))
	b.eventually(plain(cell("top", " alice", 1)), strconv.Itoa(int(denied)))
	for _, shard := range []string{"shard-0", "shard-1"} {
		b.eventually(cell("shards", shard, 1), "✓ up")
	}
	b.eventually(`document.getElementById("p99").textContent !== "–"`, "true")
	b.eventually(`document.querySelector("#chart canvas").width > 300`, "true")
	assert.Empty(t, b.foreign(p.admin))
	p.stop()
	b.eventually(stateText, "No connection")
	b.forgive() // the connection that was refused
}

func TestLivePage_countsAsTheClientDoes(t *testing.T) {
	p, seen := mixedRun(t, "closed", 1400)
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.admin + "/"))
	b.eventually(plain(cell("policies", "default", 6)), strconv.Itoa(seen.Allowed))
	b.eventually(plain(cell("policies", "default", 7)), strconv.Itoa(seen.Denied+seen.Unavailable))
}

// plain drops the separators of thousands.
func plain(expression string) string { return "(" + expression + ` ?? "").replaceAll(",", "")` }

func TestLivePage_showsADeadShardAndItsReturn(t *testing.T) {
	servers, addrs := redistest.StartN(t, 2)
	p := start(t, settings{"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ",")})
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.admin + "/"))
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
	p.stop()
	b.forgive() // the connection has gone
}

func TestLivePage_inspectsAndResetsOneClient(t *testing.T) {
	p := start(t, settings{
		"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "5", "VELOCITY_CLIENT_KEY": "header:X-Client-ID",
	})
	const key = `a/b?c=%2f&<img src=x onerror="alert(1)">`
	for range 7 {
		p.resource("X-Client-ID: " + key)
	}
	b := openBrowser(t)
	b.run(
		chromedp.Navigate(p.admin+"/"),
		chromedp.Click(chromedp.CSS(`#top button`)), // the only client's
	)
	const level = `document.querySelector("#buckets .level")?.textContent`
	b.eventually(level, "0 of 5 tokens")
	assert.Equal(t, key, b.text(`document.querySelector("#top .client").textContent`))
	assert.Equal(t, "0", b.text(`document.querySelectorAll("#top img, main p img").length`), "a key stays text")

	// Declined, nothing happens.
	b.run(
		chromedp.Click(chromedp.CSS("#reset")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-no")), chromedp.WaitNotVisible(chromedp.CSS("#confirm")),
	)
	bucket := p.admin + "/v1/buckets/default/" + url.PathEscape(key)
	assert.Contains(t, p.mustAsk(http.MethodGet, bucket, "").body, `"tokens":0`)

	b.run(
		chromedp.Click(chromedp.CSS("#reset")), chromedp.WaitVisible(chromedp.CSS("#confirm")),
		chromedp.Click(chromedp.CSS("#confirm-yes")),
	)
	b.eventually(level, "5 of 5 tokens")
	assert.Contains(t, p.mustAsk(http.MethodGet, bucket, "").body, `"tokens":5`)

	b.run(
		chromedp.SetValue(chromedp.CSS("#inspect-policy"), "other"), chromedp.Click(chromedp.CSS("#inspect button")),
	)
	b.eventually(`document.getElementById("inspect-status").textContent`, "Not shown: policy: there is no policy of this name")
	b.forgive() // a 404 is on the console
	assert.Empty(t, b.foreign(p.admin))
}

func TestLivePage_asksForTheToken(t *testing.T) {
	p := start(t, settings{"VELOCITY_ADMIN_TOKEN": "secret"})
	b := openBrowser(t)
	signIn := func(token string) {
		b.run(
			chromedp.WaitVisible(chromedp.CSS("#sign-in")), chromedp.SendKeys(chromedp.CSS("#token"), token+"\r"),
		)
	}
	b.run(chromedp.Navigate(p.admin + "/"))
	signIn("wrong")
	b.eventually(`document.getElementById("sign-in-note").textContent`, "That was not the token.")
	signIn("secret")
	b.eventually(stateText, "Ready")
	b.forgive() // each 401 is on the console
	assert.Empty(t, b.foreign(p.admin))
}

// Whoever hears the page, or has no mouse, must find everything: each control has a name and can be reached.
func TestLivePage_needsNeitherEyesNorMouse(t *testing.T) {
	p := start(t, nil)
	p.resource()
	b := openBrowser(t)
	b.run(chromedp.Navigate(p.admin + "/"))
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
