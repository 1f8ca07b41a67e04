package jwtclaims

import (
	"net/http"
	"time"
)

// FetchBy has key sets fetched by another transport.
func (v *Verifier) FetchBy(transport http.RoundTripper) { v.client.Transport = transport }

// VerifyNew verifies a token as if it were seen for the first time, and keeps no result.
func (v *Verifier) VerifyNew(text string) Reason {
	current := v.current.Load()
	return current.verify(text, current.keys.set.Load(), time.Now()).reason
}

// Known reports whether the claims of a token that was believed are kept.
func (v *Verifier) Known(text string) bool {
	_, known := v.current.Load().good.GetIfPresent(text)
	return known
}

// Cached returns the number of results about tokens that were believed, and that were not, and their weight.
func (v *Verifier) Cached() (good, bad int, goodWeight, badWeight uint64) {
	current := v.current.Load()
	current.good.CleanUp()
	current.bad.CleanUp()
	return current.good.EstimatedSize(), current.bad.EstimatedSize(), current.good.WeightedSize(), current.bad.WeightedSize()
}

// The bounds of the results.
const (
	GoodBytes = defaultBytes - BadBytes
	BadBytes  = defaultBytes / badShare
)
