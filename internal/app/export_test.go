package app

// LimitEnding sets how many permits may wait to be released.
func (r *RateLimiter) LimitEnding(most int) { r.keeper.maxEnding = most }
