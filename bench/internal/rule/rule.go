// Package rule turns the benchmark's limits into the product's.
package rule

import (
	"strconv"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// All makes limits named l0, l1 and so on.
func All(limits []peer.Limit) ([]domain.Limit, error) {
	rules := make([]domain.Limit, len(limits))
	for i, l := range limits {
		var err error
		rules[i], err = domain.NewBucket("l"+strconv.Itoa(i), domain.Tokens(l.Capacity), domain.Tokens(l.Tokens), l.Per)
		if err != nil {
			return nil, err
		}
	}
	return rules, nil
}
