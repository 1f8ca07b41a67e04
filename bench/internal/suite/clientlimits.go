package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/bench/internal/exchange"
	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/report"
	"github.com/velocity-limiter/velocity/bench/internal/service"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/overrides"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
)

// The subjects of limits of single clients.
const (
	sameForAll     = "Velocity, one limit for all"
	withConditions = "Velocity, 1,000 conditions"
	withOverrides  = "Velocity, 100,000 overrides"
	withBoth       = "Velocity, 1,000 conditions and 100,000 overrides"
)

const (
	manyConditions = 1_000
	manyOverrides  = 100_000
	// plans is how many limits the overrides and the conditions have, so that they differ as those of customers do.
	plans = 20
)

// clientCase is one set of limits of single clients.
type clientCase struct {
	subject    string
	conditions int
	// every is the distance of the clients that have one of the overrides: 1 for all that are asked about, 2 for each second one;
	// 0: there are no overrides.
	every int
}

var clientCases = []clientCase{
	{sameForAll, 0, 0}, {withConditions, manyConditions, 0}, {withOverrides, 0, 1}, {withBoth, manyConditions, 2},
}

// clientLimits measures what conditions and overrides at run time add to a decision over HTTP with Redis.
func (s *Suite) clientLimits(ctx context.Context) error {
	section := &report.Section{
		ID: "client-limits", Title: "Limits of single clients",
		About: "One whole service and one Redis. All requests name a client and, in a header of a trusted proxy, its tenant. Each tenant fits one of the conditions. " +
			"With 100,000 overrides alone, every client has one; with conditions, too, each second client has one, and the others get what their conditions say. " +
			"The limits are of 20 kinds.",
		Columns: []report.Column{columnRate, columnP50, columnP99, columnServiceCPU, columnRedisCPU, columnCPU},
		Ratio:   &report.Ratio{Key: "cpu", Of: sameForAll, Title: "CPU x one limit for all"},
	}
	a := &environment{}
	anyone := func(rng *rand.Rand) string { return s.names[rng.IntN(len(s.names))] }
	var all []measurement
	for _, c := range clientCases {
		all = append(all, measurement{groupSharedHTTP, c.subject, func(ctx context.Context) (report.Values, error) {
			return s.measureHTTP(ctx, a, httpLoad{exchange.GetOfTenant(resourcePath, anyone, tenantOf), s.cfg.Connections}, func() (*service.Service, error) {
				return c.start(ctx, a)
			})
		}})
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{
		setUp: func(ctx context.Context) (func(), error) { return s.setUpServices(ctx, a) },
	})
}

// start stores the overrides, starts the service, and waits until it knows them.
func (c *clientCase) start(ctx context.Context, a *environment) (*service.Service, error) {
	want := 0
	if c.every > 0 {
		want = manyOverrides
		if err := c.store(ctx, a.redis.Addr); err != nil {
			return nil, fmt.Errorf("storing overrides: %w", err)
		}
	}
	env := append(onRedis(a.redis), noDrain, "VELOCITY_TRUSTED_PROXIES=loopback")
	running, err := a.binaries.StartVelocityWith(ctx, c.policies(), env...)
	if err != nil {
		return nil, err
	}
	if err := awaitOverrides(ctx, running.Admin, want); err != nil {
		return nil, errors.Join(err, running.Stop())
	}
	return running, nil
}

func capacityOf(i int) int { return 10 + i%plans }

// policies is the policy file.
func (c *clientCase) policies() string {
	var b strings.Builder
	b.WriteString("policies:\n  - name: default\n    key: header:X-Client-ID\n    limits: [ { name: own, rate: 5/s, capacity: 10 } ]\n")
	if c.conditions > 0 {
		b.WriteString("    overrides:\n")
	}
	for i := range c.conditions {
		fmt.Fprintf(&b, "      - { when: { \"header:X-Tenant\": tenant-%d }, limits: [ { name: own, capacity: %d } ] }\n", i, capacityOf(i))
	}
	return b.String()
}

// store writes the overrides as the service keeps them. It counts them by itself when it reads them.
func (c *clientCase) store(ctx context.Context, addr string) error {
	client := redis.NewClient(&redis.Options{Addr: addr, PoolSize: 1, DisableIdentity: true})
	names := load.Clients(manyOverrides * c.every)
	var fields []string
	for i := range manyOverrides {
		name := names[i*c.every]
		e := override.Entry{
			Key:     clientkey.NewBucketKey("default", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}, name),
			Version: domain.InstantOf(time.Now()),
			Value:   override.Value{Effect: fmt.Sprintf(`[{"name":"own","capacity":%d}]`, capacityOf(i)), Client: name, Note: fmt.Sprint("ticket ", i)},
		}
		fields = append(fields, string(e.Key), e.Text())
	}
	const atOnce = 2_000
	for len(fields) > 0 {
		n := min(len(fields), atOnce)
		if err := client.HSet(ctx, overrides.Key, fields[:n]).Err(); err != nil {
			return errors.Join(err, client.Close())
		}
		fields = fields[n:]
	}
	return client.Close()
}

// awaitOverrides waits until a service says that so many overrides are in force.
func awaitOverrides(ctx context.Context, admin string, want int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	line := "\nvelocity_overrides " + strconv.FormatFloat(float64(want), 'g', -1, 64) + "\n" // as Prometheus writes numbers
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
		if err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("waiting for %d overrides: %w", want, err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close() // it was read to its end, or err says why not
		if err != nil {
			return err
		}
		if strings.Contains(string(body), line) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}
