package memstore

import (
	"errors"
	"fmt"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Config of the store. The zero value is not valid: start from [DefaultConfig].
type Config struct {
	// MaxBuckets bounds the memory. A client has one bucket for each limit that it is not full in.
	MaxBuckets int `envconfig:"MEMORY_MAX_BUCKETS" default:"1000000" desc:"most buckets kept in memory, about 100 bytes each; past it the fullest leave"`
}

// DefaultConfig returns the defaults: a million buckets.
func DefaultConfig() Config { return Config{MaxBuckets: 1_000_000} }

const (
	minBuckets = domain.MaxLimits // the largest group fits
	maxBuckets = 100_000_000
)

// Validate reports every violation at once, with the value found.
func (c Config) Validate() error {
	var errs []error
	if c.MaxBuckets < minBuckets || c.MaxBuckets > maxBuckets {
		errs = append(errs, fmt.Errorf("VELOCITY_MEMORY_MAX_BUCKETS: %d: must be from %d to %d",
			c.MaxBuckets, minBuckets, maxBuckets))
	}
	return errors.Join(errs...)
}
