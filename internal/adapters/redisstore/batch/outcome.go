package batch

import (
	"slices"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
)

// health is what a batch says about its server.
type health uint8

const (
	healthUnknown health = iota // it was not asked
	healthAlive                 // it can decide
	healthFailing
)

// outcome is the result of a batch.
type outcome struct {
	health health
	kinds  []failure.Kind // of the failures, each once
	cause  error          // why the server is failing
}

// outcomeOf classifies the error of a batch, or, if that is nil, the errors of its groups. One group that was decided, or
// that cannot be decided for a reason of its own, shows that the server is alive.
func outcomeOf(groups []*script.Group, err error) outcome {
	if err != nil {
		return outcomeOfError(err)
	}
	all := outcome{}
	for _, g := range groups {
		if g.Result.Err == nil {
			all.health, all.cause = healthAlive, nil
			continue
		}
		one := outcomeOfError(g.Result.Err)
		for _, kind := range one.kinds {
			if !slices.Contains(all.kinds, kind) {
				all.kinds = append(all.kinds, kind)
			}
		}
		if one.health == healthAlive || all.health == healthUnknown {
			all.health, all.cause = one.health, one.cause
		}
	}
	return all
}

func outcomeOfError(err error) outcome {
	f := failure.Classify(err)
	o := outcome{kinds: []failure.Kind{f.Kind}}
	switch {
	case f.Trips:
		o.health, o.cause = healthFailing, err
	case f.Kind == failure.WrongType, f.Kind == failure.Corrupt, f.Kind == failure.Period:
		o.health = healthAlive
	}
	return o
}
