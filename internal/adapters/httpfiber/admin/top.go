package admin

import (
	"slices"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// The number of clients that /v1/top lists of each kind: by default, and at most.
const (
	topDefault = 10
	topMax     = 100
)

// WithTop serves the clients with most requests and with most denials at /v1/top, for all policies or for the one in
// ?policy=.
func WithTop(source ports.TopSource) Option {
	return func(a *Server, token fiber.Handler) {
		a.http.App.Get("/v1/top", token, func(c *fiber.Ctx) error {
			n := topDefault
			if asked := c.Query("n"); asked != "" {
				var err error
				if n, err = strconv.Atoi(asked); err != nil || n < 1 || n > topMax {
					return problem.Input(problem.ErrOutOfRange, "n", "must be from 1 to "+strconv.Itoa(topMax))
				}
			}
			report := source.Top(n)
			if only := c.Query("policy"); only != "" {
				report.Policies = slices.DeleteFunc(report.Policies, func(p ports.TopPolicy) bool { return p.Policy != only })
			}
			return answerJSON(c, topJSON(report))
		})
	}
}

// The JSON of /v1/top, which is part of the live page's data, too.
type (
	jsonTop struct {
		WindowMS int64           `json:"window_ms"`
		Policies []jsonTopPolicy `json:"policies"`
	}
	jsonTopPolicy struct {
		Policy     string          `json:"policy"`
		Requests   uint64          `json:"requests"`
		Denials    uint64          `json:"denials"`
		ByDenials  []jsonTopClient `json:"by_denials"`
		ByRequests []jsonTopClient `json:"by_requests"`
	}
	// The true count is from count - error to count.
	jsonTopClient struct {
		Key    string `json:"key"`
		Source string `json:"source,omitzero"` // "ip": the address was used because the key was missing
		Count  uint64 `json:"count"`
		Error  uint64 `json:"error"`
	}
)

func topJSON(report ports.TopReport) jsonTop {
	out := jsonTop{WindowMS: report.Window.Milliseconds(), Policies: []jsonTopPolicy{}}
	for i := range report.Policies {
		p := &report.Policies[i]
		out.Policies = append(out.Policies, jsonTopPolicy{
			Policy: p.Policy, Requests: p.Requests, Denials: p.Denials,
			ByDenials: topClients(p.ByDenials), ByRequests: topClients(p.ByRequests),
		})
	}
	return out
}

func topClients(list []ports.TopClient) []jsonTopClient {
	out := make([]jsonTopClient, len(list))
	for i, c := range list {
		out[i] = jsonTopClient(c)
	}
	return out
}
