package settings

import (
	"cmp"
	"os"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Sizes bound what the process keeps beside its buckets and has no setting of its own. [Config.FitMemory] may lower them.
type Sizes struct {
	// TopPolicies is how many policies the lists of the busiest clients are kept for.
	TopPolicies int
	// TokenBytes bounds the memory of the results of tokens.
	TokenBytes int
	Overrides  ports.OverrideBounds
}

// Defaults of [Sizes].
const (
	topPolicies = 32
	tokenBytes  = 36 << 20
)

// What the things take, in bytes, at the most: with slack of tables and allocator, without the garbage that is yet to be collected.
const (
	bucketBytes   = 60 // without its name
	nameBytes     = 48 // of a key and the name of its limit
	nameSlack     = 5.0 / 3
	permitBytes   = 464
	denialBytes   = 600
	connBytes     = 32 << 10
	topBytes      = 1400 << 10 // for each policy
	overrideBytes = 500        // for each, beside its texts
	bodySlack     = 2          // a body's memory doubles while it arrives
	// fixedBytes is what the process takes without clients: the runtime, the log's queue of 8 MiB, policies, metrics.
	fixedBytes = 24 << 20
	// bucketsPerPermit is how many buckets there are for each permit that the memory store may hold.
	bucketsPerPermit = 16
)

// Shares of what is left beside fixedBytes, in percent. The rest is for requests in flight and the garbage collector.
const (
	bucketsShare   = 40
	connsShare     = 15
	upstreamShare  = 8
	bodiesShare    = 8
	denialsShare   = 8
	tokensShare    = 8
	overridesShare = 5
	topShare       = 4
)

// Fitted is a size that does not fit the memory limit.
type Fitted struct {
	// What is the setting's name, or a description in lower case if it has none.
	What string
	// From is the size that does not fit, and To the largest one that does.
	From, To int
	// Set says that somebody set it, so that it is not changed.
	Set bool
}

// FitMemory lowers the sizes of all that is kept for each client to what fits the memory limit, which is that of Go's heap and
// stacks, in bytes. It leaves sizes alone that somebody set. It returns those that do not fit.
func (c *Config) FitMemory(limit int64) []Fitted {
	left := int(max(limit-fixedBytes, limit/4))
	var found []Fitted
	fit := func(what string, size *int, most int) {
		if *size <= max(most, 1) {
			return
		}
		f := Fitted{What: what, From: *size, To: max(most, 1), Set: os.Getenv(what) != ""}
		if !f.Set {
			*size = f.To
		}
		found = append(found, f)
	}
	share := func(percent, each int) int { return left / 100 * percent / each }

	const eachBucket = bucketBytes + permitBytes/bucketsPerPermit
	fit(prefix+"MEMORY_MAX_BUCKETS", &c.Memory.MaxBuckets, share(bucketsShare, eachBucket+nameBytes*nameSlack))
	c.Memory.MaxPermits = max(c.Memory.MaxBuckets/bucketsPerPermit, 1)
	forNames := share(bucketsShare, 1) - c.Memory.MaxBuckets*eachBucket
	c.Memory.MaxNameBytes = max(c.Memory.MaxBuckets*nameBytes, int(float64(forNames)/nameSlack))
	fit(prefix+"HTTP_MAX_CONNS", &c.HTTP.MaxConns, share(connsShare, connBytes))
	if c.Upstream.Enabled() {
		fit(prefix+"UPSTREAM_MAX_CONNS", &c.Upstream.MaxConns, share(upstreamShare, connBytes))
		c.Upstream.BodyBytes = cmp.Or(c.Upstream.BodyBytes, httpproxy.DefaultBodyBytes)
		fit("bytes of bodies that are read before they are forwarded", &c.Upstream.BodyBytes, share(bodiesShare, bodySlack))
	}
	if c.Store.UsesRedis(&c.Redis) {
		fit(prefix+"SHORTCUT_MAX_ENTRIES", &c.DenialCache.MaxEntries, share(denialsShare, denialBytes))
	}
	fit("bytes of verified tokens", &c.Sizes.TokenBytes, share(tokensShare, 1))
	fit("policies whose busiest clients are listed", &c.Sizes.TopPolicies, share(topShare, topBytes))
	overrides := &c.Sizes.Overrides
	fit("overrides at run time", &overrides.Live, share(overridesShare, 4*overrideBytes))
	overrides.Entries = 2 * overrides.Live
	fit("bytes of overrides at run time", &overrides.Bytes, share(overridesShare, 2))
	return found
}
