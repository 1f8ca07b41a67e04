package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/stats"
)

// usage reads the CPU time and the commands that a subject and its Redis servers use during a measurement.
type usage struct {
	servers  []*redisserver.Server
	own      func() (time.Duration, error) // CPU time of the subject
	ownCPU   time.Duration
	counters []redisserver.Counters // of each server
}

func newUsage(servers []*redisserver.Server, own func() (time.Duration, error)) *usage {
	return &usage{servers: servers, own: own, counters: make([]redisserver.Counters, len(servers))}
}

// start reads the subject's CPU time last, and stop reads it first, so that the reading itself is not counted.
func (u *usage) start(ctx context.Context) error {
	for i, server := range u.servers {
		var err error
		if u.counters[i], err = server.Counters(ctx); err != nil {
			return err
		}
	}
	var err error
	u.ownCPU, err = u.own()
	return err
}

func (u *usage) stop(ctx context.Context) error {
	now, err := u.own()
	if err != nil {
		return err
	}
	u.ownCPU = now - u.ownCPU
	for i, server := range u.servers {
		now, err := server.Counters(ctx)
		if err != nil {
			return err
		}
		u.counters[i] = now.Sub(u.counters[i])
	}
	return nil
}

// The columns of measured usage.
var (
	columnRate       = report.Column{Key: "rate", Title: "decisions/s"}
	columnP50        = report.Column{Key: "p50", Title: "p50 us", LowerIsBetter: true}
	columnP99        = report.Column{Key: "p99", Title: "p99 us", LowerIsBetter: true}
	columnClientCPU  = report.Column{Key: "client_cpu", Title: "client CPU us", Decimals: 2, LowerIsBetter: true}
	columnServiceCPU = report.Column{Key: "service_cpu", Title: "service CPU us", Decimals: 2, LowerIsBetter: true}
	columnRedisCPU   = report.Column{Key: "redis_cpu", Title: "Redis CPU us", Decimals: 2, LowerIsBetter: true}
	columnCPU        = report.Column{Key: "cpu", Title: "CPU us per decision", Decimals: 2, LowerIsBetter: true}
	columnScripts    = report.Column{Key: "scripts", Title: "scripts per decision", Decimals: 4, LowerIsBetter: true}
	columnCommands   = report.Column{Key: "commands", Title: "commands per decision", Decimals: 2, LowerIsBetter: true}
)

func charted(c report.Column) report.Column {
	c.Chart = true
	return c
}

// maxDegraded is the share of decisions that a fallback may make.
const maxDegraded = 0.001

// values returns the columns that all loads have in common. cpuKey is the column of the subject's own CPU time.
func (u *usage) values(r *load.Result, cpuKey string) (report.Values, error) {
	// A decision without the store is cheaper: the measurement would be too good.
	if degraded := share(r.Degraded, r.Decisions); degraded > maxDegraded {
		return nil, fmt.Errorf("%.1f %% was decided by a fallback and not by the store", 100*degraded)
	}
	var redis redisserver.Counters
	var perServer []float64
	for _, c := range u.counters {
		redis = redis.Add(c)
		perServer = append(perServer, float64(c.Commands)) // not scripts: one may decide many
	}
	v := report.Values{
		"rate":    r.PerSecond(),
		"p50":     micros(r.Latency(50)),
		"p99":     micros(r.Latency(99)),
		cpuKey:    perDecision(u.ownCPU, r.Decisions),
		"cpu":     perDecision(u.ownCPU+redis.CPU, r.Decisions),
		"allowed": 100 * share(r.Allowed, r.Decisions),
	}
	if len(u.servers) > 0 {
		v["redis_cpu"] = perDecision(redis.CPU, r.Decisions)
		v["scripts"] = share(redis.Scripts, r.Decisions)
		v["commands"] = share(redis.Commands, r.Decisions)
		v["imbalance"] = 100 * stats.Imbalance(perServer)
	}
	if r.Degraded > 0 {
		v["degraded"] = 100 * share(r.Degraded, r.Decisions)
	}
	return v, nil
}
