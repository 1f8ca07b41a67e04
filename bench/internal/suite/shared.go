package suite

import (
	"context"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// The subjects of limits that many requests share.
const (
	perClient         = "Velocity, per client"
	perClientGlobal   = "Velocity, per client and global"
	perClientTenant   = "Velocity, per client and tenant of 100"
	hotKey            = "Velocity, one key for all"
	ratePerClient     = "redis_rate, per client"
	ratePerClientBoth = "redis_rate, per client and global"
	ratePerTenant     = "redis_rate, per client and tenant of 100"
	rateHotKey        = "redis_rate, one key for all"
)

// endless is a limit that is never reached.
var endless = peer.Limit{Tokens: 100_000_000, Per: time.Second, Capacity: 100_000_000}

func everybody(string) string { return "everybody" }

// tenantOf spreads the clients over 100 tenants.
func tenantOf(client string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(client)) // it never fails
	return "tenant-" + strconv.Itoa(int(h.Sum32()%100))
}

// sharedLimits measures limits whose key many requests have in common.
func (s *Suite) sharedLimits(ctx context.Context) error {
	section := &report.Section{
		ID: "shared", Title: "Limits that many requests share",
		About: "In process, one Redis. A request takes from its client's limit, and from one that is shared by all clients or by those of a tenant, which is never " +
			"reached; or all requests take from one key. Velocity asks for both limits in one call; with redis_rate they are two calls, one after the other. " +
			"Equal takes of a batch are one group of Velocity's script.",
		Columns: []report.Column{
			columnRate, columnP99, columnClientCPU, columnRedisCPU, columnCPU, columnScripts, columnCommands,
		},
		Ratio: &report.Ratio{Key: "redis_cpu", Of: perClient, Title: "Redis CPU x per client"},
	}
	var server *redisserver.Server
	rate := func() redispeer.Peer {
		for _, p := range redispeer.All(s.cfg.PeerPool) {
			if p.Name == redispeer.RedisRate {
				return p
			}
		}
		panic("suite: no peer " + redispeer.RedisRate)
	}()
	both := func(owner func(client string) string) func() (*peer.Limiter, error) {
		return func() (*peer.Limiter, error) {
			first, err := rate.Open(server.Addr, usual)
			if err != nil {
				return nil, err
			}
			second, err := rate.Open(server.Addr, endless)
			return peer.Both(first, peer.Renamed(second, owner)), err
		}
	}
	var all []measurement
	for _, workers := range []int{64, 512} {
		for _, x := range []struct {
			subject string
			open    func() (*peer.Limiter, error)
		}{
			{perClient, func() (*peer.Limiter, error) {
				return redispeer.OpenVelocity([]string{server.Addr}, []peer.Limit{usual})
			}},
			{perClientGlobal, func() (*peer.Limiter, error) {
				return redispeer.OpenVelocityShared(server.Addr, usual, endless, everybody)
			}},
			{perClientTenant, func() (*peer.Limiter, error) {
				return redispeer.OpenVelocityShared(server.Addr, usual, endless, tenantOf)
			}},
			{hotKey, func() (*peer.Limiter, error) {
				l, err := redispeer.OpenVelocity([]string{server.Addr}, []peer.Limit{endless})
				return peer.Renamed(l, everybody), err
			}},
			{ratePerClient, func() (*peer.Limiter, error) { return rate.Open(server.Addr, usual) }},
			{ratePerClientBoth, both(everybody)},
			{ratePerTenant, both(tenantOf)},
			{rateHotKey, func() (*peer.Limiter, error) {
				l, err := rate.Open(server.Addr, endless)
				return peer.Renamed(l, everybody), err
			}},
		} {
			all = append(all, measurement{goroutines(workers), x.subject, func(ctx context.Context) (report.Values, error) {
				return s.measureRedis(ctx, []*redisserver.Server{server}, workers, x.open)
			}})
		}
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{setUp: s.oneRedis(&server)})
}
