// Package service builds and runs the whole services that are measured: Velocity, two bare handlers, two proxies and
// envoyproxy/ratelimit. Each runs as a process of its own, so that the kernel can tell its CPU time from that of
// the load generator.
package service

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Binaries are the programs, built from source.
type Binaries struct {
	Velocity, BareFiber, BareHTTP, BareProxy, EnvoyRatelimit string
	// Caddy is empty until BuildCaddy.
	Caddy string

	dir    string
	starts atomic.Int64
}

// Build builds all of them into dir. It must run within the benchmark's module.
func Build(ctx context.Context, dir string) (*Binaries, error) {
	b := &Binaries{
		Velocity:       filepath.Join(dir, "velocity"),
		BareFiber:      filepath.Join(dir, "barefiber"),
		BareHTTP:       filepath.Join(dir, "barehttp"),
		BareProxy:      filepath.Join(dir, "bareproxy"),
		EnvoyRatelimit: filepath.Join(dir, "envoyratelimit"),
		dir:            dir,
	}
	bench, err := moduleDir(ctx, "github.com/velocity-limiter/velocity/bench")
	if err != nil {
		return nil, err
	}
	product, err := moduleDir(ctx, "github.com/velocity-limiter/velocity")
	if err != nil {
		return nil, err
	}
	for _, x := range []struct{ module, out, pkg string }{
		{product, b.Velocity, "./cmd/api"},
		{bench, b.BareFiber, "./peers/barefiber"},
		{bench, b.BareHTTP, "./peers/barehttp"},
		{bench, b.BareProxy, "./peers/bareproxy"},
		// A module of its own, so that it is built with the dependencies that it asks for, and with no others.
		{filepath.Join(bench, "peers", "envoyratelimit"), b.EnvoyRatelimit, "github.com/envoyproxy/ratelimit/src/service_cmd"},
	} {
		if _, err := goCommand(ctx, x.module, "build", "-o", x.out, x.pkg); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// BuildCaddy builds Caddy, from the module that builds it for the integration tests.
func (b *Binaries) BuildCaddy(ctx context.Context) error {
	product, err := moduleDir(ctx, "github.com/velocity-limiter/velocity")
	if err != nil {
		return err
	}
	out := filepath.Join(b.dir, "caddy")
	if _, err := goCommand(ctx, filepath.Join(product, "test", "integration", "caddy"), "build", "-o", out, "."); err != nil {
		return err
	}
	b.Caddy = out
	return nil
}

func moduleDir(ctx context.Context, module string) (string, error) {
	return goCommand(ctx, ".", "list", "-m", "-f", "{{.Dir}}", module)
}

func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return strings.TrimSpace(string(out)), nil
}
