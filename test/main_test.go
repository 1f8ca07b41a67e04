// Package test holds the end-to-end tests: they build the real binary, run it as an operator would, against real Redis
// servers, and see only what a user sees. It also holds TestRateLimitConcurrency and TestRateLimitRefill, which test the
// limiter in process.
package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/velocity-limiter/velocity/test/harness"
)

func TestMain(m *testing.M) {
	if folder := os.Getenv(harness.ExchangesVar); folder != "" {
		if err := record(filepath.Join(folder, "exchanges.json")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	harness.Main(m, "..")
}

// record writes each exchange on a path of the data plane's OpenAPI document to a file. The module
// test/integration, which has the library for it, checks them.
func record(path string) error {
	text, err := os.ReadFile("../internal/adapters/httpfiber/openapi.yaml")
	if err != nil {
		return err
	}
	var document struct {
		Paths map[string]struct{ Servers []any }
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		return err
	}
	// Those with a server of their own are the admin plane's. On the data plane such a path may be the upstream's.
	maps.DeleteFunc(document.Paths, func(_ string, item struct{ Servers []any }) bool { return len(item.Servers) > 0 })
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	encoder := json.NewEncoder(file)
	harness.Observe(slices.Collect(maps.Keys(document.Paths)), func(t *testing.T, e harness.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		if err := encoder.Encode(e); err != nil {
			t.Errorf("recording an exchange: %v", err)
		}
	})
	return nil
}
