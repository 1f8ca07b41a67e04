package httpfiber

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// How many clients of each kind /v1/top lists.
const (
	topUsual = 10
	topMost  = 100
)

// WithTop serves the clients that ask most, and are denied most, at /v1/top: of all policies,
// or of the one that is asked for.
func WithTop(source ports.TopSource) AdminOption {
	return func(a *Admin, token fiber.Handler) {
		a.http.app.Get("/v1/top", token, func(c *fiber.Ctx) error {
			n := topUsual
			if asked := c.Query("n"); asked != "" {
				var err error
				if n, err = strconv.Atoi(asked); err != nil || n < 1 || n > topMost {
					return &inputError{errOutOfRange, "n", "must be from 1 to " + strconv.Itoa(topMost)}
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

// The JSON of /v1/top, which the live page gets, too.
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
		Source string `json:"source,omitzero"` // "ip": the address stood in for a key that was missing
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

// answerJSON writes what the admin plane shows. Bytes of a client's key that are no UTF-8 become U+FFFD.
func answerJSON(c *fiber.Ctx, value any) error {
	body, err := json.Marshal(value, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return err
	}
	writeJSON(c.Context(), body)
	return nil
}
