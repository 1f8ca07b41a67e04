//go:build integration

package integration

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

var screenshots = flag.String("screenshots", "", "folder for pictures of the live page; empty: they are thrown away")

// TestLivePage_screenshots takes the pictures that the documentation shows. Without the flag it throws them away.
func TestLivePage_screenshots(t *testing.T) {
	folder := *screenshots
	if folder == "" {
		folder = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(folder, 0o755))
	servers, addrs := redistest.StartN(t, 3)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", pictured),
		"VELOCITY_TAKE_TIMEOUT": "2s", // so that a slow machine does not change the pictures
	})
	ctx, end := context.WithCancel(t.Context())
	defer end()
	go traffic(ctx, p)

	b := openBrowser(t)
	b.run(chromedp.Navigate(p.Admin + "/"))
	b.eventually(`document.querySelectorAll("#top-policy option").length`, "3")
	b.run(
		chromedp.SetValue(chromedp.CSS("#inspect-policy"), "search"),
		chromedp.SetValue(chromedp.CSS("#inspect-key"), "crawler-7"),
		chromedp.SetValue(chromedp.CSS("#top-policy"), "search"),
	)
	seconds := 6
	if *screenshots != "" {
		seconds = 62 // until the chart's shortest axis is full
		t.Logf("the chart fills for %d s", seconds)
	}
	b.run(chromedp.Sleep(time.Duration(seconds)*time.Second), chromedp.Click(chromedp.CSS(`#inspect button`)))
	b.eventually(`document.querySelectorAll("#buckets .bucket").length`, "2")
	for _, scheme := range []string{"light", "dark"} {
		b.picture(scheme, 1280, filepath.Join(folder, "live-page-"+scheme+".png"))
	}
	servers[1].Kill()
	b.eventually(cell("shards", "shard-1", 1), "✕ down")
	b.run(chromedp.Sleep(3 * time.Second))
	b.picture("light", 1280, filepath.Join(folder, "live-page-shard-down.png"))
	b.picture("dark", 420, filepath.Join(folder, "live-page-narrow.png"))
}

const pictured = `policies:
  - name: search
    match: { path: "/api/search/**" }
    key: header:X-Client-ID
    limits:
      - { name: burst, rate: 5/s, capacity: 20 }
      - { name: daily, quota: 10000/day }
  - name: login
    match: { methods: [POST], path: /login }
    limits: [ { rate: 10/m, capacity: 5 } ]
    mode: shadow
  - name: default
    key: header:X-Client-ID
    limits: [ { rate: 20/s, capacity: 40 } ]
`

// traffic sends requests of a few clients, most of which stay below their limit.
func traffic(ctx context.Context, p *harness.Process) {
	greedy := map[int]string{0: "crawler-7", 3: "crawler-7", 4: "nightly-export", 7: "10.20.30.40", 8: "crawler-9"}
	for i := 0; ctx.Err() == nil; i++ {
		client := greedy[i%10]
		if client == "" {
			client = fmt.Sprintf("customer-%d", i%40)
		}
		policy := []string{"search", "default", "search", "login", "search"}[i%5]
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+"/v1/check",
			strings.NewReader(fmt.Sprintf(`{"policy":%q,"key":%q}`, policy, client)))
		if err != nil {
			return
		}
		req.Header.Set("Content-Type", "application/json")
		if resp, err := p.Client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
		wave := time.Duration(3+i/400%5) * time.Millisecond
		select {
		case <-ctx.Done():
		case <-time.After(wave):
		}
	}
}

// picture writes a picture of the whole page, in a colour scheme and of a width.
func (b *browser) picture(scheme string, width int64, path string) {
	b.t.Helper()
	b.run(
		send(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}),
		chromedp.EmulateViewport(width, 900),
		chromedp.Sleep(1500*time.Millisecond), // until the next event redraws the page
	)
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	small, err := withPalette(shot)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(path, small, 0o644))
	b.t.Logf("%s: %d KiB", path, len(small)>>10)
}

// withPalette reduces a picture to its 256 most frequent colours and replaces the others by the nearest of them. A page of
// text and lines looks the same, at a third of the size.
func withPalette(shot []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, err
	}
	frequency := make(map[color.Color]int)
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			frequency[full.At(x, y)]++
		}
	}
	byFrequency := slices.SortedFunc(maps.Keys(frequency), func(a, b color.Color) int { return frequency[b] - frequency[a] })
	few := image.NewPaletted(full.Bounds(), byFrequency[:min(256, len(byFrequency))])
	nearest := make(map[color.Color]uint8, len(byFrequency))
	for _, c := range byFrequency {
		nearest[c] = uint8(few.Palette.Index(c))
	}
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			few.SetColorIndex(x, y, nearest[full.At(x, y)])
		}
	}
	var small bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, few)
	return small.Bytes(), err
}
