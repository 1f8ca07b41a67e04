package redisstore

import "github.com/cespare/xxhash/v2"

// Strategy says how clients are mapped to shards.
type Strategy string

// The strategies.
const (
	// StrategyRendezvous gives each client to the shard with the highest score for it (highest random weight). The
	// order of the list does not matter, and adding a shard to n moves 1/(n+1) of the clients, all to the new one.
	StrategyRendezvous Strategy = "rendezvous"
	// StrategyModulo is hash(client) % n. It is the simplest, and adding a shard to n moves n/(n+1) of the clients.
	StrategyModulo Strategy = "modulo"
)

func (s Strategy) valid() bool { return s == StrategyRendezvous || s == StrategyModulo }

// hash is xxHash64 with seed 0. It must never change, or clients would move to other shards.
func hash(text string) uint64 { return xxhash.Sum64String(text) }

// mix64 is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
// OOPSLA 2014, with the constants of Stafford's variant 13). Scores need it: the exclusive or of two hashes compares
// alike for all clients in the bits in which the shards' hashes agree, and three shards would get 50, 25 and 25 %.
func mix64(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// route returns the index of the shard that owns a bucket key. seeds are the hashes of the shards' identities, in the
// order of the list.
func (s Strategy) route(text string, seeds []uint64) int {
	h := hash(text)
	if s == StrategyModulo {
		return int(h % uint64(len(seeds)))
	}
	best, bestScore := 0, mix64(h^seeds[0])
	for i := 1; i < len(seeds); i++ {
		// mix64 is a bijection, so two scores are equal only if two seeds are.
		if score := mix64(h ^ seeds[i]); score > bestScore {
			best, bestScore = i, score
		}
	}
	return best
}
