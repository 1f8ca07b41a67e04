package policy

import (
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// maxPattern is the longest pattern, in bytes.
const maxPattern = clientkey.MaxValue

// CheckPattern returns an error unless s is a pattern for clients: 1 to 256 bytes, in which at most one * stands for
// any text. Where clients are addresses, a pattern with a slash and no * must be a network; see [Policy.Validate].
func CheckPattern(s string) error {
	switch {
	case s == "" || len(s) > maxPattern:
		return invalid("pattern", strconv.Quote(s), "must have from 1 to 256 bytes")
	case strings.Count(s, "*") > 1:
		return invalid("pattern", strconv.Quote(s), "must have one * at most")
	}
	return nil
}

// patternIndex finds the pattern of the lowest rank that matches a text. Its time hardly depends on the number of
// patterns. The zero value is empty. It is immutable once made.
type patternIndex struct {
	exact map[string]int32
	// matchAll is the rank of the pattern *.
	matchAll int32
	// affixes holds the patterns with a *, by the text before it. Each has an index of the texts after it, reversed.
	affixes  affixIndex
	networks networkIndex
	nonEmpty bool
}

// newPatternIndex returns the index of patterns for the key's values. The rank of a pattern is the index of its list.
func newPatternIndex(lists [][]string, key clientkey.Key) patternIndex {
	source, addresses := key.AddressSource()
	x := patternIndex{exact: map[string]int32{}, matchAll: noRank}
	tails := map[string]map[string]int32{}
	for i, list := range lists {
		rank := int32(i)
		for _, pattern := range list {
			x.nonEmpty = true
			before, after, star := strings.Cut(pattern, "*")
			switch {
			case pattern == "*":
				x.matchAll = min(x.matchAll, rank)
			case !star && addresses && strings.Contains(pattern, "/"):
				x.networks.add(netip.MustParsePrefix(pattern), rank) // Validate has checked it
			case !star && addresses:
				keepLowest(x.exact, source.Normalize(pattern), rank)
			case !star:
				keepLowest(x.exact, pattern, rank)
			default:
				if tails[before] == nil {
					tails[before] = map[string]int32{}
				}
				keepLowest(tails[before], reversed(after), rank)
			}
		}
	}
	x.affixes = newAffixIndex(tails)
	return x
}

// find returns the lowest rank of the patterns that match text, or noRank. It does not allocate.
func (x *patternIndex) find(text string) int32 {
	best := min(x.matchAll, x.networks.find(text))
	if rank, there := x.exact[text]; there {
		best = min(best, rank)
	}
	if len(x.affixes.texts) == 0 {
		return best
	}
	var buf [maxPattern]byte
	backwards := buf[:min(len(text), maxPattern)]
	for i := range backwards {
		backwards[i] = text[len(text)-1-i]
	}
	for at := longestPrefix(&x.affixes.prefixIndex, text); at >= 0; at = x.affixes.parent[at] {
		// The texts before and after the * must not overlap.
		rest := len(text) - len(x.affixes.texts[at])
		best = min(best, x.affixes.tails[at].lowest(backwards[:min(rest, len(backwards))]))
	}
	return best
}

// prefixIndex finds which of its texts are prefixes of another text: the longest one, and the parents of that.
type prefixIndex struct {
	texts []string // sorted
	// parent is the index of the longest other text that is a prefix of this one, or -1.
	parent []int32
}

func newPrefixIndex[V any](of map[string]V) prefixIndex {
	x := prefixIndex{texts: slices.Sorted(maps.Keys(of)), parent: make([]int32, len(of))}
	for i, text := range x.texts {
		x.parent[i] = int32(i) - 1
		for x.parent[i] >= 0 && !strings.HasPrefix(text, x.texts[x.parent[i]]) {
			x.parent[i] = x.parent[x.parent[i]]
		}
	}
	return x
}

// longestPrefix returns the index of the longest text that is a prefix of s, or -1. All other prefixes are its
// parents, because every text that sorts between a prefix of s and s starts with that prefix.
func longestPrefix[T string | []byte](x *prefixIndex, s T) int32 {
	after := sort.Search(len(x.texts), func(i int) bool { return x.texts[i] > string(s) })
	at := int32(after) - 1
	for at >= 0 && (len(s) < len(x.texts[at]) || x.texts[at] != string(s[:len(x.texts[at])])) {
		at = x.parent[at]
	}
	return at
}

// affixIndex has, for each text before a *, an index of the texts after it.
type affixIndex struct {
	prefixIndex
	tails []tailIndex
}

func newAffixIndex(tails map[string]map[string]int32) affixIndex {
	x := affixIndex{prefixIndex: newPrefixIndex(tails)}
	for _, text := range x.texts {
		x.tails = append(x.tails, newTailIndex(tails[text]))
	}
	return x
}

// tailIndex holds the lowest rank of each text and its parents.
type tailIndex struct {
	prefixIndex
	ranks []int32
}

func newTailIndex(ranks map[string]int32) tailIndex {
	x := tailIndex{prefixIndex: newPrefixIndex(ranks)}
	for i, text := range x.texts {
		rank := ranks[text]
		if parent := x.parent[i]; parent >= 0 {
			rank = min(rank, x.ranks[parent])
		}
		x.ranks = append(x.ranks, rank)
	}
	return x
}

func (x *tailIndex) lowest(s []byte) int32 {
	if at := longestPrefix(&x.prefixIndex, s); at >= 0 {
		return x.ranks[at]
	}
	return noRank
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
