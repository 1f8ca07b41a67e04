// Package simulate is the use case of trying policies on traffic that was: it replays a log of requests through a
// limiter, in the log's own time, and tells who would have been denied, by which policy and when; and what another set
// of policies would have changed.
//
// It decides nothing itself. Like a door it calls the driving port, behind which the same use case and the same
// arithmetic stand as in service, over a store in memory that reads the [Clock] of the replay. So its verdicts are those
// of the service, under two assumptions: the store does not fail, and the clients would have sent the same requests.
//
// A policy in shadow mode is counted as if it were enforced: that is what one asks for. The memory grows with the
// distinct clients, not with the requests.
package simulate
