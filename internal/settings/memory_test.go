package settings

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const testMiB = 1 << 20

// load loads these settings, which must be right.
func load(t *testing.T, vars map[string]string) Config {
	t.Helper()
	setenv(t, vars)
	cfg, err := Load()
	require.NoError(t, err)
	return cfg
}

func TestFitMemory_lowersDefaults(t *testing.T) {
	cfg := load(t, map[string]string{"REDIS_ADDR": "127.0.0.1:1", "VELOCITY_UPSTREAM_URL": "http://127.0.0.1:1"})
	before := map[string]int{
		"VELOCITY_MEMORY_MAX_BUCKETS": cfg.Memory.MaxBuckets, "VELOCITY_HTTP_MAX_CONNS": cfg.HTTP.MaxConns,
		"VELOCITY_UPSTREAM_MAX_CONNS": cfg.Upstream.MaxConns, "VELOCITY_SHORTCUT_MAX_ENTRIES": cfg.DenialCache.MaxEntries,
		"bytes of bodies that are read before they are forwarded": httpproxy.DefaultBodyBytes,
		"bytes of verified tokens":                                tokenBytes, "policies whose busiest clients are listed": topPolicies,
		"overrides at run time": ports.DefaultOverrideBounds.Live, "bytes of overrides at run time": ports.DefaultOverrideBounds.Bytes,
	}
	found := cfg.FitMemory(57 * testMiB)
	require.Len(t, found, len(before))
	for _, f := range found {
		assert.Equal(t, before[f.What], f.From, f.What)
		assert.Less(t, f.To, f.From, f.What)
		assert.Positive(t, f.To, f.What)
		assert.False(t, f.Set, f.What)
	}
	assert.Equal(t, found[0].To, cfg.Memory.MaxBuckets)
	assert.Positive(t, cfg.Memory.MaxNameBytes)
	assert.Positive(t, cfg.Memory.MaxPermits)
	require.NoError(t, cfg.Memory.Validate())
	require.NoError(t, cfg.HTTP.Validate())
	all := cfg.Memory.MaxBuckets*bucketBytes + int(float64(cfg.Memory.MaxNameBytes)*nameSlack) + cfg.Memory.MaxPermits*permitBytes +
		(cfg.HTTP.MaxConns+cfg.Upstream.MaxConns)*connBytes + cfg.DenialCache.MaxEntries*denialBytes + cfg.Sizes.TokenBytes +
		cfg.Sizes.TopPolicies*topBytes + cfg.Sizes.Overrides.Entries*overrideBytes + cfg.Sizes.Overrides.Bytes +
		cfg.Upstream.BodyBytes*bodySlack
	assert.Less(t, all+fixedBytes, 57*testMiB, "all of it together")
}

func TestFitMemory_keepsWhatFitsAndWhatIsSet(t *testing.T) {
	cfg := load(t, nil)
	assert.Empty(t, cfg.FitMemory(4<<30))
	assert.Equal(t, 1_000_000, cfg.Memory.MaxBuckets)
	assert.Equal(t, topPolicies, cfg.Sizes.TopPolicies)

	cfg = load(t, map[string]string{"VELOCITY_MEMORY_MAX_BUCKETS": "2000000", "VELOCITY_HTTP_MAX_CONNS": "10"})
	found := cfg.FitMemory(57 * testMiB)
	assert.Equal(t, 2_000_000, cfg.Memory.MaxBuckets)
	assert.Equal(t, 10, cfg.HTTP.MaxConns)
	assert.Equal(t, "VELOCITY_MEMORY_MAX_BUCKETS", found[0].What)
	assert.True(t, found[0].Set)
	assert.Less(t, found[0].To, 100_000)
}

// However small the limit is, the sizes are valid.
func TestFitMemory_ofATinyLimit(t *testing.T) {
	cfg := load(t, nil)
	cfg.FitMemory(testMiB)
	require.NoError(t, cfg.Memory.Validate())
	assert.Positive(t, cfg.HTTP.MaxConns)
	assert.Positive(t, cfg.Sizes.TopPolicies)
}
