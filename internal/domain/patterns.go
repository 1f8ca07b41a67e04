package domain

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxPattern is the longest pattern, in bytes.
const maxPattern = maxKeyValue

// CheckPattern refuses what is no pattern of clients: a text of 1 to 256 bytes, in which at most one * stands for any
// text. Where clients are addresses, one with a slash and no * must be a network, too; see [Policy.Validate].
func CheckPattern(s string) error {
	switch {
	case s == "" || len(s) > maxPattern:
		return &FieldError{ErrInvalidPolicy, "pattern", strconv.Quote(s), "must have from 1 to 256 bytes"}
	case strings.Count(s, "*") > 1:
		return &FieldError{ErrInvalidPolicy, "pattern", strconv.Quote(s), "must have one * at most"}
	}
	return nil
}

// patternIndex finds the pattern of the lowest rank that matches a text, in a time that hardly depends on how many
// patterns there are. The zero value has none. Immutable once sealed.
type patternIndex struct {
	exact map[string]int32
	// every is the rank of the pattern *.
	every int32
	// affixes are the patterns with a *, by what stands before it; each text has an index of what stands after it,
	// written backwards.
	affixes  affixIndex
	networks networkIndex
	some     bool
}

// noRank is that of a pattern which is not there.
const noRank = math.MaxInt32

// newPatternIndex makes the index of patterns of the key's values; a pattern's rank is its list's place.
func newPatternIndex(lists [][]string, key Key) patternIndex {
	source, addresses := key.address()
	x := patternIndex{exact: map[string]int32{}, every: noRank}
	tails := map[string]map[string]int32{}
	for i, list := range lists {
		rank := int32(i)
		for _, pattern := range list {
			x.some = true
			before, after, star := strings.Cut(pattern, "*")
			switch {
			case pattern == "*":
				x.every = min(x.every, rank)
			case !star && addresses && strings.Contains(pattern, "/"):
				x.networks.add(netip.MustParsePrefix(pattern), rank) // it was checked
			case !star && addresses:
				note(x.exact, source.Normalize(pattern), rank)
			case !star:
				note(x.exact, pattern, rank)
			default:
				if tails[before] == nil {
					tails[before] = map[string]int32{}
				}
				note(tails[before], reversed(after), rank)
			}
		}
	}
	x.affixes = newAffixIndex(tails)
	return x
}

func note[P comparable](ranks map[P]int32, pattern P, rank int32) {
	if known, there := ranks[pattern]; !there || rank < known {
		ranks[pattern] = rank
	}
}

// find returns the lowest rank of the patterns that match text; noRank if none does. Without allocating.
func (x *patternIndex) find(text string) int32 {
	best := min(x.every, x.networks.find(text))
	if rank, there := x.exact[text]; there {
		best = min(best, rank)
	}
	if len(x.affixes.texts) == 0 {
		return best
	}
	var room [maxPattern]byte
	backwards := room[:min(len(text), maxPattern)]
	for i := range backwards {
		backwards[i] = text[len(text)-1-i]
	}
	for at := x.affixes.longest(text); at >= 0; at = x.affixes.parent[at] {
		// What stands before the * and what stands after it must not overlap.
		rest := len(text) - len(x.affixes.texts[at])
		best = min(best, x.affixes.tails[at].lowest(backwards[:min(rest, len(backwards))]))
	}
	return best
}

// prefixIndex finds those of its texts that another text begins with: they are one of them and its parents.
type prefixIndex struct {
	texts []string // sorted
	// parent is the place of the longest other text that this one begins with; -1 if there is none.
	parent []int32
}

func newPrefixIndex[V any](of map[string]V) prefixIndex {
	x := prefixIndex{}
	for text := range of {
		x.texts = append(x.texts, text)
	}
	slices.Sort(x.texts)
	x.parent = make([]int32, len(x.texts))
	for i, text := range x.texts {
		x.parent[i] = int32(i) - 1
		for x.parent[i] >= 0 && !strings.HasPrefix(text, x.texts[x.parent[i]]) {
			x.parent[i] = x.parent[x.parent[i]]
		}
	}
	return x
}

// longestPrefix returns the place of the longest text that s begins with; -1 if there is none. All others are its
// parents: whatever sorts between a prefix of s and s begins with that prefix, too.
func longestPrefix[T string | []byte](x *prefixIndex, s T) int32 {
	from, to := 0, len(x.texts)
	for from < to {
		middle := (from + to) / 2
		if cmp.Compare(x.texts[middle], string(s)) <= 0 {
			from = middle + 1
		} else {
			to = middle
		}
	}
	at := int32(from) - 1
	for at >= 0 && (len(s) < len(x.texts[at]) || x.texts[at] != string(s[:len(x.texts[at])])) {
		at = x.parent[at]
	}
	return at
}

// affixIndex has an index of tails for each text.
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

func (x *affixIndex) longest(s string) int32 { return longestPrefix(&x.prefixIndex, s) }

// tailIndex knows the lowest rank of each text and its parents.
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
