package suite

import (
	"context"
	"errors"
	"io"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/report"
)

func TestInterleave_takesAGroupSideBySideAndRotatesIt(t *testing.T) {
	var order []string
	record := func(group, subject string) measurement {
		return measurement{group, subject, func(context.Context) (report.Values, error) {
			order = append(order, group+subject)
			return report.Values{"n": float64(len(order))}, nil
		}}
	}
	s := New(Settings{Clients: 1, Progress: io.Discard})
	section := &report.Section{ID: "x"}
	all := []measurement{record("1", "a"), record("1", "b"), record("1", "c"), record("2", "a"), record("2", "b")}
	require.NoError(t, s.interleave(t.Context(), section, all, 2))

	assert.Equal(t, []string{"1a", "1b", "1c", "2a", "2b", "1b", "1c", "1a", "2b", "2a"}, order)
	assert.Equal(t, []float64{1, 8}, section.Find("1", "a").Measured("n"), "its first round and its second")
	assert.Equal(t, "a", section.Rows[0].Subject, "rows stay in the order of the subjects")
}

func TestInterleave_goesOnAfterAFailure(t *testing.T) {
	s := New(Settings{Clients: 1, Progress: io.Discard})
	section := &report.Section{ID: "x"}
	round := 0
	require.NoError(t, s.interleave(t.Context(), section, []measurement{
		{"g", "flaky", func(context.Context) (report.Values, error) {
			if round++; round == 1 {
				return nil, errors.New("refused")
			}
			return report.Values{"n": 7}, nil
		}},
	}, 2))
	assert.Equal(t, []string{"x/g/flaky: refused"}, s.failures)
	row := section.Find("g", "flaky")
	assert.Len(t, row.Rounds, 2, "a failed round keeps its place, so that the pairs of a ratio stay pairs")
	assert.Equal(t, []float64{7}, row.Measured("n"))
}

func TestMeasure_goesOnWithoutASectionThatCannotBeSetUp(t *testing.T) {
	s := New(Settings{Clients: 1, Progress: io.Discard})
	never := []measurement{{"g", "subject", func(context.Context) (report.Values, error) {
		t.Error("measured without what it needs")
		return nil, nil
	}}}
	err := s.measure(t.Context(), &report.Section{ID: "x"}, never, 1, fixture{
		setUp: func(context.Context) (func(), error) { return nil, errors.New("no redis-server") },
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"x: set up: no redis-server"}, s.failures)
}

func TestMeasure_stopsWhatItStartedAndDescribesBefore(t *testing.T) {
	var order []string
	s := New(Settings{Clients: 1, Progress: io.Discard})
	step := func(name string) { order = append(order, name) }
	require.NoError(t, s.measure(t.Context(), &report.Section{ID: "x"}, []measurement{
		{"g", "subject", func(context.Context) (report.Values, error) { step("measure"); return nil, nil }},
	}, 1, fixture{
		setUp:    func(context.Context) (func(), error) { step("start"); return func() { step("stop") }, nil },
		describe: func(context.Context) { step("describe") },
	}))
	assert.Equal(t, []string{"start", "measure", "describe", "stop"}, order)
}

func TestSelected(t *testing.T) {
	section := &report.Section{ID: "inprocess"}
	all := []measurement{{group: "1 goroutine", subject: "PING"}, {group: "64 goroutines", subject: "PING"}}
	s := New(Settings{Only: regexp.MustCompile(`^inprocess/64 .*/PING$`)})
	assert.Len(t, s.selected(section, all), 1)
	assert.Len(t, New(Settings{}).selected(section, all), 2)
}

func TestRun_withNothingSelectedMeasuresNothing(t *testing.T) {
	r, err := New(Settings{Clients: 1, Only: regexp.MustCompile("^nothing$"), Progress: io.Discard}).Run(t.Context())
	require.NoError(t, err)
	assert.Empty(t, r.Sections)
	for _, target := range r.Targets {
		assert.Nil(t, target.Got, target.Text)
	}
}

func TestCountMoved_rendezvousMovesTheLeast(t *testing.T) {
	s := New(Settings{Clients: 20_000})
	rendezvous, err := s.countMoved("rendezvous", 3)
	require.NoError(t, err)
	assert.InDelta(t, 25, rendezvous["moved"], 1.5)
	assert.InDelta(t, 25, rendezvous["least"], 1e-12)
	assert.Less(t, rendezvous["imbalance"], 5.0)
	modulo, err := s.countMoved("modulo", 3)
	require.NoError(t, err)
	assert.InDelta(t, 75, modulo["moved"], 1.5)
}
