package app

import "github.com/velocity-limiter/velocity/internal/ports"

// Foresee reports whether the store would deny a take, by what it has shown before, and fills in the denial then. The
// store is not asked, and nothing is taken if it is false. So whoever takes from several buckets can ask about all of
// them before the first is touched.
func (s *Shortcut) Foresee(req *ports.TakeRequest, result *ports.TakeResult) bool {
	if !s.answer(req, result, s.clock()) {
		return false
	}
	s.hits.Add(1)
	return true
}
