package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func measuredAs(id, measured string, v verdict) result {
	return result{row: row{id: id, claim: "claim " + id, target: "target"}, measured: measured, verdict: v}
}

func TestReplaceRows_keepsRowsThatWereNotMeasured(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	first := []result{measuredAs("R02", "0", passed), measuredAs("R23", "1 | 2", passed)}
	require.NoError(t, os.WriteFile(path, []byte("before\n"+beginMarker+endMarker+"after\n"), 0o600))
	_, err := replaceRows(path, first)
	require.NoError(t, err)
	table, err := replaceRows(path, []result{measuredAs("R14", "10000", passed), measuredAs("R02", "7", failed)})
	require.NoError(t, err)

	want := tableHead + "| R02 | claim R02 | 7 | target | FAIL |\n| R14 | claim R14 | 10000 | target | pass |\n| R23 | claim R23 | 1 / 2 | target | pass |\n"
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

// The claims and targets of docs/reliability.md are those of the code; the figures are from its last run.
func TestTable_theDocumentHasTheClaimsOfTheCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/reliability.md")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), beginMarker)
	table, _, ended := strings.Cut(rest, endMarker)
	require.True(t, ended)
	lines := strings.Split(strings.TrimPrefix(table, tableHead), "\n")
	require.Len(t, lines, len(claims)+1, "the table has a row for each claim")
	for i, r := range claims {
		cells := strings.Split(lines[i], " | ")
		require.Len(t, cells, 5, lines[i])
		assert.Equal(t, []string{"| " + r.id, r.claim, r.target}, []string{cells[0], cells[1], cells[3]})
	}
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

// go test succeeds for a pattern without a test. The row would pass without a measurement.
func TestRunner_aMissingTestIsAFailure(t *testing.T) {
	t.Chdir("../..")
	r := &runner{ctx: t.Context(), folder: t.TempDir(), ran: map[string]error{}}
	require.ErrorContains(t, r.test("./test/invariant", "^TestNoSuchTest$"), "no test has this name")
}

func TestRunner_verdicts(t *testing.T) {
	r := &runner{}
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
		res := r.measure(row{id: "R00", measure: func(*runner) (string, bool, error) { return "3", c.ok, c.err }})
		assert.Equal(t, c.want, res.verdict)
		assert.Equal(t, c.text, res.measured)
	}
}

func TestTimes(t *testing.T) {
	r := measuredAs("R01", "0", passed)
	r.took = 62 * time.Second
	assert.Equal(t, "R01   62 s\nall   63 s\n", times([]result{r}, 63*time.Second))
}

func TestShare_withoutALossNoTokenMayBeExtra(t *testing.T) {
	f := faultFigures{Extra: 2}
	assert.Greater(t, f.share(), 1.0)
	f.Loss.Times, f.ShareOfBound = 1, 0.5
	assert.InDelta(t, 0.5, f.share(), 0)
}
