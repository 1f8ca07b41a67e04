package settings

import (
	"strconv"

	"github.com/velocity-limiter/velocity/internal/violation"
)

// Waiting bounds the requests that the service holds until the tokens are there that they borrowed.
type Waiting struct {
	Max int `envconfig:"MAX_WAITING" default:"10000" desc:"most requests held at once until the tokens are there that max_wait lets them borrow; those beyond it are decided as if no request could wait; 0: none is held"`
}

// maxMaxWaiting is the most requests that can be allowed to wait: each keeps a connection.
const maxMaxWaiting = 1_000_000

func (w Waiting) validate() error {
	var v violation.List
	if w.Max < 0 || w.Max > maxMaxWaiting {
		v.Add("MAX_WAITING", strconv.Itoa(w.Max), "must be from 0 to "+strconv.Itoa(maxMaxWaiting))
	}
	return v.Err()
}
