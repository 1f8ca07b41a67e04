// Package overridejson is the JSON of the overrides that operators set at run time. The admin plane and the command velocity
// override use it. A limit has the members of a limit in a policy file.
package overridejson

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Limit is the JSON of a limit of an override. What it does not say stays as the policy says it.
type Limit struct {
	Name       string        `json:"name,omitzero"`
	Rate       string        `json:"rate,omitzero"`
	Capacity   domain.Tokens `json:"capacity,omitzero"`
	Quota      string        `json:"quota,omitzero"`
	Zone       string        `json:"zone,omitzero"`
	Anchor     string        `json:"anchor,omitzero"`
	Concurrent domain.Tokens `json:"concurrent,omitzero"`
	Lease      string        `json:"lease,omitzero"`
	Cost       domain.Tokens `json:"cost,omitzero"`
}

// Override is the JSON of an override. Times are in UTC, as RFC 3339 writes them.
type Override struct {
	Key       string  `json:"key,omitzero"`
	Source    string  `json:"source,omitzero"` // as of /v1/buckets; left out for the policy's key
	Limits    []Limit `json:"limits,omitempty"`
	Exempt    bool    `json:"exempt,omitzero"`
	Block     bool    `json:"block,omitzero"`
	ExpiresAt string  `json:"expires_at,omitzero"` // left out if it does not expire
	Note      string  `json:"note,omitzero"`
	SetAt     string  `json:"set_at,omitzero"`
	// Unfit says which parts do not fit the policy as it is now, and are ignored; left out if all fit.
	Unfit string `json:"unfit,omitzero"`
}

// Of returns the JSON of an override.
func Of(o *ports.Override) Override {
	out := Override{
		Key: o.Key, Source: o.Source, Exempt: o.Exempt, Block: o.Block, ExpiresAt: instant(o.ExpiresAt), Note: o.Note, SetAt: instant(o.SetAt),
	}
	if o.Unfit != nil {
		out.Unfit = o.Unfit.Error()
	}
	for i := range o.Limits {
		out.Limits = append(out.Limits, LimitOf(&o.Limits[i]))
	}
	return out
}

// LimitOf returns the JSON of a limit.
func LimitOf(s *limitspec.Spec) Limit {
	return Limit{
		Name: s.Name, Rate: s.Rate, Capacity: s.Capacity, Quota: s.Quota, Zone: s.Zone, Anchor: s.Anchor,
		Concurrent: s.Concurrent, Lease: s.Lease, Cost: s.Cost,
	}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
