// Package memstore keeps buckets in this process's memory: the default store, and what decides for a while when
// another store cannot.
//
// It promises what every ports.BucketStore does, with the arithmetic of package domain, and a bound on memory: at
// most so many buckets, of about 100 bytes each with a short key. A bucket that is full again is forgotten, since a
// client that is not known has a full bucket anyway. When the bound is reached and a new bucket needs room, the one
// that is soonest full again leaves, out of a few that are looked at: its client is given early what that time would
// have refilled, and nothing more. Evictions are counted, and the latest is told; see [Stats].
//
// It does not promise to outlive the process, and it knows nothing of other processes: two of them with a store
// each allow a client twice its limit.
package memstore
