package admin

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"time"

	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// healthTimeout leaves the command time to start within the 3 s of a container's health check.
const healthTimeout = 2 * time.Second

// Healthcheck asks whether the process lives that the settings describe.
var Healthcheck = command.Command{
	Name: "healthcheck", Purpose: "exit 0 if the process that these settings describe is alive",
	Help: "Exits 0 if the process that the settings describe is alive, else 1.\n",
	Define: func(*flag.FlagSet) command.Action {
		return func(ctx context.Context, args []string, _ command.Streams) error {
			if err := command.NoArguments(args); err != nil {
				return err
			}
			cfg, err := settings.Load()
			if err != nil {
				return command.SettingsError{Err: err}
			}
			return checkHealth(ctx, cfg.Admin.Addr)
		}
	},
}

// checkHealth asks the admin plane that listens at addr, on this machine, whether its process is alive.
func checkHealth(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(addr)+"/healthz", http.NoBody)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: nil}}).Do(req)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not healthy: /healthz answered %s", resp.Status)
	}
	return nil
}
