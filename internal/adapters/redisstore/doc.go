// Package redisstore keeps buckets in Redis 7.0 or newer, or Valkey, on one server, on several shards, in a Redis
// Cluster or behind Sentinel.
//
// Every decision is made by one run of one Lua script (take.lua) on the server that owns the client, by that
// server's clock: refill, comparison and debit are one atomic step, so any number of processes may share the
// servers. [RedisShardManager] maps each client to its shard, always the same one.
//
// A request that may have reached a server is never sent again: a lost answer may hide a debit, and a second one
// would be a second debit. What is left of the budget of a call cannot change that, so a failure is reported at
// once, wrapping ports.ErrUnavailable, and the caller's failure policy decides. The one exception is a server that
// says it does not know the script: then nothing ran, and the script's source is sent. Nor has a node of a cluster run
// anything that redirects to another, so redirects are followed.
//
// A server that is down delays nobody but its own clients, and them at most by the budget. The package does not
// keep state of its own: what Redis forgets (a restart without persistence, an eviction) is a full bucket again.
package redisstore
