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

// meter reads what a subject and its Redis servers use during a measurement.
type meter struct {
	servers  []*redisserver.Server
	own      func() (time.Duration, error) // CPU time of the subject
	ownCPU   time.Duration
	counters []redisserver.Counters // of each server
}

func newMeter(servers []*redisserver.Server, own func() (time.Duration, error)) *meter {
	return &meter{servers: servers, own: own, counters: make([]redisserver.Counters, len(servers))}
}

// start reads the subject's clock last and stop reads it first: what the reading itself costs is not the subject's.
func (m *meter) start(ctx context.Context) error {
	for i, server := range m.servers {
		var err error
		if m.counters[i], err = server.Counters(ctx); err != nil {
			return err
		}
	}
	var err error
	m.ownCPU, err = m.own()
	return err
}

func (m *meter) stop(ctx context.Context) error {
	now, err := m.own()
	if err != nil {
		return err
	}
	m.ownCPU = now - m.ownCPU
	for i, server := range m.servers {
		now, err := server.Counters(ctx)
		if err != nil {
			return err
		}
		m.counters[i] = now.Sub(m.counters[i])
	}
	return nil
}

// The columns of what a meter measures.
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

// maxDegraded is how many of the decisions may be a fallback's.
const maxDegraded = 0.001

// values are the columns that all loads have in common. ownKey is the column of the subject's own CPU time.
func (m *meter) values(r *load.Result, ownKey string) (report.Values, error) {
	// A store that is not asked costs nothing: such a measurement would flatter.
	if degraded := share(r.Degraded, r.Decisions); degraded > maxDegraded {
		return nil, fmt.Errorf("%.1f %% was decided by a fallback and not by the store", 100*degraded)
	}
	var redis redisserver.Counters
	var perServer []float64
	for _, c := range m.counters {
		redis = redis.Add(c)
		perServer = append(perServer, float64(c.Commands)) // not scripts: one may decide many
	}
	v := report.Values{
		"rate":    r.PerSecond(),
		"p50":     micros(r.Latency(50)),
		"p99":     micros(r.Latency(99)),
		ownKey:    perDecision(m.ownCPU, r.Decisions),
		"cpu":     perDecision(m.ownCPU+redis.CPU, r.Decisions),
		"allowed": 100 * share(r.Allowed, r.Decisions),
	}
	if len(m.servers) > 0 {
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
