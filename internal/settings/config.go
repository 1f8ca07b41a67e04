// Package settings reads Velocity's settings from the environment.
//
// Each adapter declares its part of the settings as a struct with envconfig tags, and validates it. This package joins
// the parts into one [Config], decodes them, and reports every violation at once under the names of the variables. The
// list of settings that `velocity -h` and the documents show is generated from the same tags.
package settings

import (
	"errors"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/secretfile"
	"github.com/velocity-limiter/velocity/internal/violation"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
)

// Config holds every setting. Each part is declared and validated by the package that uses it.
type Config struct {
	Policy      Policy
	Waiting     Waiting
	HTTP        dataplane.Config
	Upstream    httpproxy.Config
	GRPC        grpcenvoy.Config
	Admin       admin.Config
	Store       Store
	Redis       redisstore.Config
	DenialCache denialcache.Config
	Memory      memstore.Config
	Log         telemetry.Config

	// Sizes have their defaults.
	Sizes Sizes `envconfig:"-"`
	// SecretFiles are the files of secrets that are to be followed while the process runs.
	SecretFiles []*secretfile.File `envconfig:"-"`
}

// Load reads the environment. The error joins every violation; [Violations] lists them.
func Load() (Config, error) {
	cfg := Config{Sizes: Sizes{TopPolicies: topPolicies, TokenBytes: tokenBytes, Overrides: ports.DefaultOverrideBounds}}
	var errs []error
	list := settingsOf(&cfg)
	for _, s := range list {
		errs = append(errs, s.decode())
	}
	files, err := readSecrets(list)
	cfg.use(files)
	errs = append(errs,
		err,
		cfg.Store.mergeAddr(&cfg.Redis),
		cfg.Store.validate(&cfg.Redis),
		cfg.HTTP.Validate(),
		cfg.Upstream.Validate(),
		cfg.GRPC.Validate(),
		cfg.Admin.Validate(),
		cfg.DenialCache.Validate(),
		cfg.Memory.Validate(),
		cfg.Log.Validate(),
		cfg.Policy.validate(),
		cfg.Waiting.validate(),
	)
	return cfg, inFiles(asWritten(cfg.Named(errors.Join(errs...)), list), files)
}

// Named returns err with the names of environment variables for the short names of settings: those of [violation.Error]s,
// which the adapters return.
func (c *Config) Named(err error) error {
	return violation.Rename(err, func(setting string) string {
		if setting == "REDIS_ADDRS" && c.Store.Addr != "" {
			return "REDIS_ADDR" // this is where the addresses were set
		}
		return prefix + setting
	})
}
