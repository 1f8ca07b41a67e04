package policy

import (
	"net/netip"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// conditionIndex finds the first of the rules whose conditions all fit a request. It finds a rule by one of its conditions, that whose
// values the fewest other rules have, and compares the rest of its conditions. So its time grows with the number of sources, and with
// the number of rules that share all values of one source, but not with the number of rules. It does not allocate. The zero value
// is empty. It is immutable once made.
type conditionIndex struct {
	// sources are those by which rules are found.
	sources []sourceIndex
}

// sourceIndex holds the rules that are found by one source.
type sourceIndex struct {
	source clientkey.Source
	// lowest is the lowest rank of these rules.
	lowest int32
	values map[string]rules
	// networks are in place of values where the source is the address. lengths are the prefix lengths that occur, of IPv4 and of IPv6.
	networks map[netip.Prefix]rules
	lengths  [2][]int
}

// rules are those that one value finds. Most values find one rule, which has nothing left to compare: its rank is in the map, so that a
// search reads no other memory. The zero value is not valid.
type rules struct {
	// more are those before plain, sorted by rank: each has something left to compare.
	more []rule
	// plain is the rank of the first rule that has nothing left to compare, or noRank.
	plain int32
}

// count is the number of the rules.
func (r rules) count() int {
	if r.plain == noRank {
		return len(r.more)
	}
	return len(r.more) + 1
}

// rule is what is left to compare of a rule once one of its conditions fits.
type rule struct {
	rank int32
	rest []measure
	// methods are those of a policy's match. Empty: any.
	methods []string
}

// add adds a rule, of a higher rank than those before.
func (x *conditionIndex) add(rank int32, methods []string, conditions []Condition) {
	by, least, known := 0, -1, false
	for i := range conditions {
		s := x.of(conditions[i].Source)
		shared := s.mostRules(conditions[i].Values)
		if least < 0 || shared < least || shared == least && s != nil && !known {
			by, least, known = i, shared, s != nil
		}
	}
	added := rule{rank: rank, methods: methods}
	for i := range conditions {
		if i != by {
			added.rest = append(added.rest, newMeasure(conditions[i]))
		}
	}
	s := x.of(conditions[by].Source)
	if s == nil {
		x.sources = append(x.sources, sourceIndex{source: conditions[by].Source, lowest: rank})
		s = &x.sources[len(x.sources)-1]
	}
	s.add(conditions[by].Values, added)
}

// of returns the index of a source, or nil.
func (x *conditionIndex) of(source clientkey.Source) *sourceIndex {
	for i := range x.sources {
		if x.sources[i].source == source {
			return &x.sources[i]
		}
	}
	return nil
}

// mostRules is the largest number of rules that one of the values finds.
func (s *sourceIndex) mostRules(values []string) (most int) {
	if s == nil {
		return 0
	}
	for _, value := range values {
		if s.source.Kind == clientkey.SourceIP {
			network, _ := parseAddresses(value)
			if found, there := s.networks[network]; there {
				most = max(most, found.count())
			}
		} else if found, there := s.values[value]; there {
			most = max(most, found.count())
		}
	}
	return most
}

func (s *sourceIndex) add(values []string, added rule) {
	for _, value := range values {
		if s.source.Kind != clientkey.SourceIP {
			put(&s.values, value, added)
			continue
		}
		network, _ := parseAddresses(value)
		put(&s.networks, network, added)
		family := &s.lengths[0]
		if network.Addr().Is6() {
			family = &s.lengths[1]
		}
		if !slices.Contains(*family, network.Bits()) {
			*family = append(*family, network.Bits())
		}
	}
}

// put adds a rule at a value. It leaves out one after a rule that has nothing left to compare: it would never apply.
func put[V comparable](all *map[V]rules, value V, added rule) {
	if *all == nil {
		*all = map[V]rules{}
	}
	at, known := (*all)[value]
	if !known {
		at.plain = noRank
	} else if at.plain != noRank {
		return
	}
	if len(added.rest)+len(added.methods) == 0 {
		at.plain = added.rank
	} else {
		at.more = append(at.more, added)
	}
	(*all)[value] = at
}

// find returns the lowest rank below best of the rules that fit, else best. If there is an error of facts, rules from the rank at on
// might have fitted: the result is right only if it is not above at.
func (x *conditionIndex) find(facts Facts, method string, best int32) (lowest, at int32, err error) {
	at = noRank
	for i := range x.sources {
		s := &x.sources[i]
		if s.lowest >= best {
			continue
		}
		first, failed := s.find(facts, method, best)
		if failed != nil && s.lowest < at {
			err, at = failed, s.lowest
		}
		best = first
	}
	return best, at, err
}

func (s *sourceIndex) find(facts Facts, method string, best int32) (int32, error) {
	if s.source.Kind == clientkey.SourceIP {
		return s.findAddress(facts, method, best)
	}
	value, err := facts.Value(s.source)
	if err != nil {
		return best, err
	}
	if value != "" {
		if found, there := s.values[value]; there {
			return found.lowest(facts, method, best)
		}
		return best, nil
	}
	for _, element := range facts.Elements(s.source) {
		if found, there := s.values[element]; !there {
			continue
		} else if best, err = found.lowest(facts, method, best); err != nil {
			return best, err
		}
	}
	return best, nil
}

func (s *sourceIndex) findAddress(facts Facts, method string, best int32) (int32, error) {
	address := plainAddress(facts)
	lengths := s.lengths[0]
	if address.Is6() {
		lengths = s.lengths[1]
	}
	for _, bits := range lengths {
		network, err := address.Prefix(bits)
		if err != nil {
			continue // the address is not known
		}
		if found, there := s.networks[network]; !there {
			continue
		} else if best, err = found.lowest(facts, method, best); err != nil {
			return best, err
		}
	}
	return best, nil
}

// lowest returns the lowest rank below best of the rules that fit, else best.
func (r rules) lowest(facts Facts, method string, best int32) (int32, error) {
	best = min(best, r.plain)
	for i := range r.more {
		one := &r.more[i]
		if one.rank >= best {
			break
		}
		if len(one.methods) > 0 && !slices.Contains(one.methods, method) {
			continue
		}
		if fits, err := one.fits(facts); err != nil {
			return best, err
		} else if fits {
			return one.rank, nil
		}
	}
	return best, nil
}

// fits reports whether the rest of a rule's conditions fit.
func (r *rule) fits(facts Facts) (bool, error) {
	for i := range r.rest {
		if _, fits, err := r.rest[i].fits(facts); err != nil || !fits {
			return false, err
		}
	}
	return true, nil
}
