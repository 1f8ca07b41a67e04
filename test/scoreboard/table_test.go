package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func measuredAs(id, measured string, v verdict) result {
	return result{row: row{id: id, claim: "claim " + id, bar: "bar"}, measured: measured, verdict: v}
}

func TestReplaceRows_keepsTheRowsThatWereNotMeasured(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	first := []result{measuredAs("R02", "0", passed), measuredAs("R23", "1 | 2", passed)}
	require.NoError(t, os.WriteFile(path, []byte("before\n"+beginMarker+endMarker+"after\n"), 0o600))
	_, err := replaceRows(path, first)
	require.NoError(t, err)
	table, err := replaceRows(path, []result{measuredAs("R14", "10000", passed), measuredAs("R02", "7", failed)})
	require.NoError(t, err)

	want := tableHead + "| R02 | claim R02 | 7 | bar | FAIL |\n| R14 | claim R14 | 10000 | bar | pass |\n| R23 | claim R23 | 1 / 2 | bar | pass |\n"
	assert.Equal(t, want, table)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "before\n"+beginMarker+want+endMarker+"after\n", string(text))
}

func TestReplaceRows_aFileWithoutMarkersIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(path, []byte("text\n"), 0o600))
	_, err := replaceRows(path, nil)
	require.ErrorContains(t, err, "has no markers")
}

func TestChoose(t *testing.T) {
	ids := func(rows []row) (ids []string) {
		for _, r := range rows {
			ids = append(ids, r.id)
		}
		return ids
	}
	some := []row{{id: "R01"}, {id: "R22"}, {id: "R23"}, {id: "R24"}}
	for _, c := range []struct {
		wanted string
		fuzz   bool
		want   []string
		err    string
	}{
		{"", true, []string{"R01", "R22", "R23", "R24"}, ""},
		{"", false, []string{"R01", "R22", "R24"}, ""},
		{"R24,R01", false, []string{"R01", "R24"}, ""},
		{"R23", true, []string{"R23"}, ""},
		{"R23", false, nil, "R23 needs -fuzz"},
		{"R01,R99", false, nil, `"R99": no such row`},
	} {
		rows, err := choose(some, c.wanted, c.fuzz)
		assert.Equal(t, c.want, ids(rows), c.wanted)
		if c.err == "" {
			assert.NoError(t, err, c.wanted)
		} else {
			assert.ErrorContains(t, err, c.err)
		}
	}
}

// A pattern that no test has would pass every row that asks only whether its tests passed.
func TestBench_aTestThatIsNotThereIsAFailure(t *testing.T) {
	t.Chdir("../..")
	b := &bench{ctx: t.Context(), folder: t.TempDir(), ran: map[string]error{}}
	require.ErrorContains(t, b.test("./test/law", "^TestNoSuchTest$"), "no test is called so")
}

func TestBench_aRowThatFailsSaysSo(t *testing.T) {
	b := &bench{}
	for _, c := range []struct {
		ok   bool
		err  error
		want verdict
		text string
	}{
		{true, nil, passed, "3"},
		{false, nil, failed, "3"},
		{true, os.ErrInvalid, failed, "3; invalid argument"},
		{false, notRunError("no database"), notRun, "no database"},
	} {
		res := b.measure(row{id: "R00", measure: func(*bench) (string, bool, error) { return "3", c.ok, c.err }})
		assert.Equal(t, c.want, res.verdict)
		assert.Equal(t, c.text, res.measured)
	}
}

func TestTimes(t *testing.T) {
	r := measuredAs("R01", "0", passed)
	r.took = 62 * time.Second
	assert.Equal(t, "R01   62 s\nall   63 s\n", times([]result{r}, 63*time.Second))
}

func TestOfBound_withoutALossNothingMayBeExtra(t *testing.T) {
	f := faultFigures{Extra: 2}
	assert.Greater(t, f.ofBound(), 1.0)
	f.Forgets.Times, f.ExtraOfMost = 1, 0.5
	assert.InDelta(t, 0.5, f.ofBound(), 0)
}
