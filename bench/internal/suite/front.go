package suite

import (
	"fmt"
	"math"

	"github.com/velocity-limiter/velocity/bench/internal/redispeer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// comparison is one chart of the front: some subjects under some loads of a section.
type comparison struct {
	section          string // its ID
	title, about     string
	column           report.Column
	groups, subjects []string
}

// Front returns the comparisons that come first: those of which something was measured.
func Front(r *report.Report) []*report.Section {
	m := results{r}
	var front []*report.Section
	for _, c := range comparisons(m) {
		s := &report.Section{ID: "front-" + c.section, Title: c.title, About: c.about, Columns: []report.Column{charted(c.column)}}
		for _, group := range c.groups {
			for _, subject := range c.subjects {
				if row := m.row(c.section, group, subject); row != nil {
					s.Rows = append(s.Rows, row)
				}
			}
		}
		if len(s.Rows) > 0 {
			front = append(front, s)
		}
	}
	return front
}

func comparisons(m results) []comparison {
	many := goroutines(512)
	times := func(section, group, subject, other, key string) string {
		return report.Number(m.ratio(section, group, subject, other, key), 1)
	}
	return []comparison{
		{
			section: "inprocess", title: "Limiters as libraries, over one Redis", column: columnRate,
			about: fmt.Sprintf("Decisions per second of 64 and of 512 goroutines. With 512, Velocity decides %s times as often as redis_rate. A lone decision, which "+
				"shares its call with no other, takes %s us of CPU time more than redis_rate's: the price of taking all limits or none, exactly.",
				times("inprocess", many, redispeer.Velocity, redispeer.RedisRate, "rate"), m.over("inprocess", goroutines(1), redispeer.Velocity, redispeer.RedisRate)),
			groups:   []string{goroutines(64), many},
			subjects: []string{redispeer.Velocity, redispeer.RedisRate, "throttled", "ulule/limiter"},
		},
		{
			section: "services", title: "CPU time of whole services", column: columnCPU,
			about: fmt.Sprintf("CPU time of a decision, that of the service and of its Redis. Over Envoy's protocol and with the same rules, envoyproxy/ratelimit takes "+
				"%s times that of Velocity. The bare handlers decide nothing.", times("services", groupRequests, envoy, velocityGRPC, "cpu")),
			groups:   []string{groupRequests},
			subjects: []string{velocityRedis, velocityGRPC, envoy, envoyGathered, envoyCached, bareFiber, bareHTTP},
		},
		{
			section: "shared", title: "Limits that everybody shares", column: columnRedisCPU,
			about: fmt.Sprintf("Redis CPU time of a decision. A global limit beside the client's own makes it %s times that of the client's limit alone; "+
				"with redis_rate, which needs a second call, %s times. Of one key for all, redis_rate takes %s times the Redis CPU time of Velocity.",
				times("shared", many, perClientGlobal, perClient, "redis_cpu"), times("shared", many, ratePerClientBoth, ratePerClient, "redis_cpu"),
				times("shared", many, rateHotKey, hotKey, "redis_cpu")),
			groups: []string{many},
			subjects: []string{
				perClient, perClientGlobal, perClientTenant, hotKey, ratePerClient, ratePerClientBoth, ratePerTenant, rateHotKey,
			},
		},
		{
			section: "proxy", title: "CPU time of reverse proxies", column: columnCPU,
			about: fmt.Sprintf("CPU time of a request through each proxy, without that of the server behind it. Velocity, which decides each request, takes %s times that of "+
				"Caddy, which limits nothing here.", report.Number(m.ratio("proxy", groupProxied, velocityProxy, caddyProxy, "cpu"), 2)),
			groups:   []string{groupProxied},
			subjects: []string{velocityProxy, bareProxy, caddyProxy},
		},
	}
}

// Costs returns what decisions cost above something that does less, as far as it was measured.
func Costs(r *report.Report) []report.Cost {
	m := results{r}
	var costs []report.Cost
	for _, x := range []struct{ text, section, group, subject, other string }{
		{
			"a lone one over Redis, 1 goroutine: the price of all limits or none, exactly",
			"inprocess", goroutines(1), redispeer.Velocity, redispeer.RedisRate,
		},
		{"the same", "inprocess", goroutines(1), redispeer.Velocity, redispeer.Ping},
		{"one of 512 at once over Redis", "inprocess", goroutines(512), redispeer.Velocity, redispeer.Ping},
		{"over HTTP, with Redis", "services", groupRequests, velocityRedis, bareFiber},
		{"the same", "services", groupRequests, velocityRedis, bareHTTP},
		{"over HTTP, in memory", "services", groupRequests, velocityMemory, bareFiber},
		{"the same", "services", groupRequests, velocityMemory, bareHTTP},
		{"a denial in a flood", "services", groupFlood, velocityRedis, bareFiber},
		{"the same", "services", groupFlood, velocityRedis, bareHTTP},
		{"by a client's and a global limit, over HTTP", "shared-services", groupSharedHTTP, perClientGlobal, perClient},
		{"of the reverse proxy, in memory", "proxy", groupProxied, velocityProxy, bareProxy},
	} {
		own, other := m.row(x.section, x.group, x.subject), m.row(x.section, x.group, x.other)
		if own == nil || math.IsNaN(own.Over(other, "cpu")) {
			continue
		}
		costs = append(costs, report.Cost{
			Text: x.text, Beside: x.other, Own: own.Median("cpu"), Other: other.Median("cpu"), Over: own.Over(other, "cpu"),
		})
	}
	return costs
}
