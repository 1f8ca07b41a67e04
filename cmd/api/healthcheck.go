package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// healthTimeout is what a container's health check gives the whole command, less its start.
const healthTimeout = 2 * time.Second

// runHealthcheck is the command, for containers.
func runHealthcheck(ctx context.Context, args []string, s streams) int {
	f := newFlags("healthcheck", "Usage: api healthcheck\n\nExits 0 if the process that the settings describe is alive, else 1.\n")
	rest, code, done := parseFlags(f, args, s)
	if done {
		return code
	}
	if len(rest) > 0 {
		return s.misuse(f.Name(), fmt.Errorf("unknown argument %q", rest[0]))
	}
	return withConfig(s.err, func(cfg config) int { return healthcheck(ctx, cfg.Admin.Addr, s.err) })
}

// healthcheck asks the admin plane at addr whether its process is alive.
func healthcheck(ctx context.Context, addr string, stderr io.Writer) int {
	if err := askHealth(ctx, addr); err != nil {
		_, _ = fmt.Fprintf(stderr, "api: not healthy: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func askHealth(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(addr)+"/healthz", http.NoBody)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil}} // the process is on this machine
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/healthz answered %s", resp.Status)
	}
	return nil
}

// dialable turns an address to listen on into one to connect to: every address of this machine becomes loopback.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // the configuration has been validated
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if ip.Is6() {
			return net.JoinHostPort("::1", port)
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}
