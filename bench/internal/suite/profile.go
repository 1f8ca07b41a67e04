package suite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"

	"github.com/velocity-limiter/velocity/bench/internal/service"
)

// profile begins to profile a service, if that was asked for, for as long as a measurement. wait returns when the profile is
// written to its file.
func (s *Suite) profile(ctx context.Context, running *service.Service) (wait func() error) {
	if s.cfg.Profiles == "" {
		return func() error { return nil }
	}
	file := filepath.Join(s.cfg.Profiles, profileName(s.current))
	done := make(chan error, 1)
	go func() {
		text, err := running.Profile(ctx, s.cfg.Duration)
		if errors.Is(err, service.ErrNoProfile) {
			done <- nil
			return
		}
		if err == nil {
			err = os.MkdirAll(s.cfg.Profiles, 0o755)
		}
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		done <- err
	}()
	return func() error { return <-done }
}

var notInFileNames = regexp.MustCompile(`[^a-zA-Z0-9]+`)

// profileName is the file of a measurement's profile. Each round replaces that of the round before.
func profileName(measurement string) string {
	return notInFileNames.ReplaceAllString(measurement, "-") + ".pprof"
}
