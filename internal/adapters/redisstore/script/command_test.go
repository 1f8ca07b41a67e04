package script_test

import (
	"encoding"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestEncode_sendsWhatRepeatsOnce(t *testing.T) {
	l, m := limit(t, "burst", "1/h", 10), limit(t, "burst", "1/m", 10)
	shared := []domain.Limit{l}
	const (
		first  = " 1 0 b:burst 10 3600000000 1 1 0"
		second = " 1 0 b:burst 10 60000000 1 1 0"
	)
	for want, reqs := range map[string][]ports.TakeRequest{
		"2 velocity:{a} velocity:{b} 5 1 0 1 0 7" + first: {
			{Key: "a", Limits: shared, Cost: 1},
			{Key: "b", Limits: []domain.Limit{l}, Cost: 1},
		},
		"4 velocity:{a} velocity:{b} velocity:{c} velocity:{a} 5 3 0 1 0 27 0 1 0 35 2 3 0 27 1 1 2 2 1 3 3 1 4 1 1 5" + first + second: {
			{Key: "a", Limits: shared, Cost: 1},
			{Key: "b", Limits: []domain.Limit{m}, Cost: 1},
			{Key: "c", Limits: shared, Cost: 3, Op: domain.OpRefund},
			{Key: "a", Limits: []domain.Limit{l}, Cost: 1},
		},
	} {
		assert.Equal(t, want, shownArguments(t, encode("source", reqs, 0)[2:]))
	}
}

func TestEncode_sendsPeriodsAndOwnCosts(t *testing.T) {
	daily, weekly := quota(t, "daily", 1000, "day"), withCost(t, quota(t, "weekly", 70, "week"), 7)
	burst := withCost(t, limit(t, "burst", "1/h", 10), 2)
	const day = 86_400_000_000 // 1970-01-01 was a Thursday
	undo := func(takenAt domain.Instant, limits ...domain.Limit) ports.TakeRequest {
		return ports.TakeRequest{Key: "a", Limits: limits, Cost: 1, Op: domain.OpUndo, TakenAt: takenAt}
	}
	for want, reqs := range map[string][]ports.TakeRequest{
		"1 velocity:{a} 5 1 0 3 0 7 3 0 q:daily 1000 86400000000 172800000000 259200000000 0" +
			" q:weekly 70 -259200000000 345600000000 950400000000 7 b:burst 10 3600000000 1 1 2": {
			{Key: "a", Limits: []domain.Limit{daily, weekly, burst}, Cost: 3, TakenAt: 5}, // a take's own time means nothing
		},
		"2 velocity:{a} velocity:{a} 5 2 5 1 5 17 5 1 0 17 1 1 2 2 1 3 1 0 q:daily 1000 86400000000 172800000000 259200000000 0": {
			undo(5, daily), undo(0, daily),
		},
		"2 velocity:{a} velocity:{a} 5 1 5 1 0 7 1 0 b:burst 10 3600000000 1 1 2": {undo(5, burst), undo(6, burst)}, // nor to a bucket
	} {
		assert.Equal(t, want, shownArguments(t, encode("source", reqs, day)[2:]))
	}
}

func TestEncode_sendsPermitsLast(t *testing.T) {
	held, burst := concurrency(t, "held", 5, time.Minute), limit(t, "burst", "1/h", 10)
	few, bucket := concurrency(t, "few", 2, time.Second), []domain.Limit{burst}
	request := func(op domain.Op, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
		return ports.TakeRequest{Key: "a", Limits: limits, Op: op, Cost: cost, Permit: "id", TakenAt: 5, MaxWait: 1500 * time.Microsecond}
	}
	for want, reqs := range map[string][]ports.TakeRequest{
		"3 velocity:{a} velocity:{a}:f:held velocity:{a}:f:few 5 1 0 1 1500 7 1 2 b:burst 10 3600000000 1 1 0 held 5 60000000 few 2 1000000 id 1": {
			request(domain.OpTake, 1, held, burst, few),
		},
		"2 velocity:{a}:f:held velocity:{b} 5 2 6 -3 0 17 0 1 0 22 1 1 2 2 1 3 0 1 held 5 60000000 1 0 b:burst 10 3600000000 1 1 0 id  2": {
			request(domain.OpRelease, -3, held), {Key: "b", Limits: bucket, Cost: 1},
		},
		"2 velocity:{a}:f:held velocity:{a}:f:held 5 1 0 1 0 7 0 1 held 5 60000000 id id 2": { // without a bucket there is no waiting
			request(domain.OpTake, 1, held), {Key: "a", Limits: []domain.Limit{held}, Cost: 1, Permit: "id"},
		},
		"3 velocity:{a}:f:few velocity:{b} velocity:{a}:f:held 5 2 8 0 0 17 0 1 0 25 1 1 2 2 1 3 0 2 few 2 1000000 held 5 60000000" +
			" 1 0 b:burst 10 3600000000 1 1 0 id  2": {
			request(domain.OpList, 0, few, held), {Key: "b", Limits: bucket, Cost: 1},
		},
	} {
		assert.Equal(t, want, shownArguments(t, encode("source", reqs, 0)[2:]))
	}
}

// A pipeline that is late may still be under way when its groups are used again.
func TestEncode_readsTheGroupsAtOnce(t *testing.T) {
	held := []domain.Limit{concurrency(t, "held", 5, time.Minute)}
	groups := []*script.Group{
		{Request: ports.TakeRequest{Key: "a", Limits: held, Cost: 1, Permit: "id-a"}},
		{Request: ports.TakeRequest{Key: "b", Limits: held, Cost: 1, Permit: "id-b"}},
	}
	args := script.NewCommand().Encode(script.New("source"), false, groups, 0)
	want := shownArguments(t, args)
	require.Contains(t, want, "id-a id-b")
	for _, g := range groups {
		g.Request = ports.TakeRequest{Key: "c", Permit: "id-c"}
	}
	assert.Equal(t, want, shownArguments(t, args))
}

func TestEncode_bringsGroupsThatAreAlikeTogether(t *testing.T) {
	burst, global := []domain.Limit{limit(t, "burst", "1/h", 10)}, []domain.Limit{limit(t, "all", "1/m", 10)}
	const (
		first  = " 1 0 b:burst 10 3600000000 1 1 0"
		second = " 1 0 b:all 10 60000000 1 1 0"
	)
	a, b, c := ports.TakeRequest{Key: "a", Limits: burst, Cost: 1}, ports.TakeRequest{Key: "b", Limits: burst, Cost: 1}, ports.TakeRequest{Key: "c", Limits: burst, Cost: 1}
	all := ports.TakeRequest{Key: "all", Limits: global, Cost: 1}
	refund := ports.TakeRequest{Key: "a", Limits: burst, Cost: 1, Op: domain.OpRefund}
	peek := ports.TakeRequest{Key: "b", Limits: burst}
	for want, reqs := range map[string][]ports.TakeRequest{
		"1 velocity:{a} 5 1 0 1 0 10 1 3 2" + first: {a, a, a},
		"1 velocity:{b} 5 1 0 0 0 7" + first:        {peek, peek},
		"4 velocity:{a} velocity:{b} velocity:{c} velocity:{all} 5 2 0 1 0 17 0 1 0 25 1 1 4 2 3 5" + first + second: {a, all, b, all, all, c},
		// What comes after another operation of its key stays there.
		"4 velocity:{a} velocity:{all} velocity:{a} velocity:{a} 5 3 0 1 0 27 2 1 0 27 0 1 0 35 1 2 2 3 2 3 2 1 4 1 1 5" + first + second: {
			a, a, refund, all, a, all,
		},
	} {
		sent := new(script.Batch)
		for _, req := range reqs {
			sent.Add(&script.Group{Request: req})
		}
		assert.Equal(t, want, shownArguments(t, script.NewCommand().Encode(script.New("source"), false, sent.Groups(), 0)[2:]))
	}
}

func shownArguments(t *testing.T, args []any) string {
	var shown []string
	for _, a := range args {
		if m, ok := a.(encoding.BinaryMarshaler); ok {
			text, err := m.MarshalBinary()
			require.NoError(t, err)
			a = string(text)
		}
		if s, ok := a.(*string); ok {
			a = *s
		}
		shown = append(shown, fmt.Sprint(a))
	}
	return strings.Join(shown, " ")
}
