// Package grpcload asks an Envoy Rate Limit Service (v3) for decisions.
package grpcload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/velocity-limiter/velocity/bench/internal/load"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// Connections are HTTP/2 connections to one service, over which the workers' calls are spread.
type Connections struct {
	conns   []*grpc.ClientConn
	clients []rlsv3.RateLimitServiceClient
	domain  string
}

// Dial makes n connections. They connect at the first call.
func Dial(addr string, n int, domain string) (*Connections, error) {
	c := &Connections{domain: domain}
	for range n {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.conns = append(c.conns, conn)
		c.clients = append(c.clients, rlsv3.NewRateLimitServiceClient(conn))
	}
	return c, nil
}

// Close closes the connections.
func (c *Connections) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// Descriptor is a descriptor of a request, with one entry.
type Descriptor struct {
	Key string
	// Value is the entry's value for a client; nil: the client.
	Value func(client string) string
}

// NewCall asks for one client at a time, under all descriptors in one request.
func (c *Connections) NewCall(ctx context.Context, worker int, draw func(*rand.Rand) string, descriptors ...Descriptor) load.Call {
	take := c.take(worker, descriptors)
	return func(rng *rand.Rand) (load.Outcome, error) {
		allowed, err := take(ctx, draw(rng))
		o := load.Outcome{Decisions: 1}
		if allowed {
			o.Allowed = 1
		}
		return o, err
	}
}

// Take asks for a client under all descriptors in one request.
func (c *Connections) Take(descriptors ...Descriptor) peer.Take { return c.take(0, descriptors) }

func (c *Connections) take(worker int, asked []Descriptor) peer.Take {
	client := c.clients[worker%len(c.clients)]
	return func(ctx context.Context, name string) (bool, error) {
		descriptors := make([]*ratelimitv3.RateLimitDescriptor, len(asked))
		for i, d := range asked {
			value := name
			if d.Value != nil {
				value = d.Value(name)
			}
			descriptors[i] = &ratelimitv3.RateLimitDescriptor{
				Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: d.Key, Value: value}},
			}
		}
		r, err := client.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: c.domain, Descriptors: descriptors})
		if err != nil {
			return false, err
		}
		for i, s := range r.GetStatuses() {
			if s.GetCurrentLimit() == nil {
				return false, fmt.Errorf("no limit applies to descriptor %q: it would not be limited", asked[i].Key)
			}
		}
		return r.GetOverallCode() == rlsv3.RateLimitResponse_OK, nil
	}
}
