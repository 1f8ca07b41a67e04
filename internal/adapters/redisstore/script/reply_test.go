package script_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Four groups: of one limit, of two, of which one counts in ticks of 1 ms, of a quota, and a list of two limits of permits with a
// bucket between them. A token of 5/s is worth 200,000 credits.
func fourGroups(t testing.TB) []ports.TakeRequest {
	burst, yearly := limit(t, "burst", "5/s", 10), limit(t, "yearly", "7/8760h", 500)
	charge := take("b", 1, yearly, burst)
	charge.Op = domain.OpCharge
	list := take("d", 0, concurrency(t, "held", 5, time.Minute), burst, concurrency(t, "few", 1, time.Minute))
	list.Op = domain.OpList
	return []ports.TakeRequest{take("a", 1, burst), charge, take("c", 1, quota(t, "daily", 100, "day")), list}
}

func goodReply() []any {
	return []any{
		int64(5), int64(1_700_000_000_000_000),
		int64(1), int64(1_800_000),
		int64(2), int64(-5), int64(2_000_000), int64(1_699_999_999_999_999),
		int64(0), int64(-7), int64(1_699_999_999_999_998),
		int64(1), int64(400_000), int64(2), int64(1_700_000_000_000_007), int64(0), int64(1_700_000_000_000_000),
		int64(2), "id-1", int64(1_700_000_000_000_007), "id-2", int64(1_700_000_000_000_009), int64(0),
	}
}

func TestDecodeReply_good(t *testing.T) {
	results := make([]ports.TakeResult, 4)
	require.NoError(t, decodeReply(goodReply(), fourGroups(t), results))
	assert.Equal(t, ports.TakeResult{
		Verdict: domain.Allowed, Now: 1_700_000_000_000_000, Store: decision.StoreRedis,
		States: []domain.State{{Amount: 1_800_000, At: 1_700_000_000_000_000, TokenCredits: 200_000}},
	}, results[0])
	assert.Equal(t, domain.DebtExceeded, results[1].Verdict)
	assert.Equal(t, []domain.State{
		{Amount: -5, At: 1_699_999_999_999_999, TokenCredits: 31_536_000_000},
		{Amount: 2_000_000, At: 1_700_000_000_000_000, TokenCredits: 200_000},
	}, results[1].States)
	assert.Equal(t, ports.TakeResult{
		Verdict: domain.Denied, Now: 1_700_000_000_000_000, Store: decision.StoreRedis,
		States: []domain.State{{Amount: 107, At: 1_699_999_999_999_998, TokenCredits: 1}},
	}, results[2], "of a quota the reply has what is left, of 100")
	assert.Equal(t, ports.TakeResult{
		Verdict: domain.Allowed, Now: 1_700_000_000_000_000, Store: decision.StoreRedis,
		States: []domain.State{
			{Amount: 2, At: 1_700_000_000_000_007, TokenCredits: 1},
			{Amount: 400_000, At: 1_700_000_000_000_000, TokenCredits: 200_000},
			{Amount: 0, At: 1_700_000_000_000_000, TokenCredits: 1},
		},
		Permits: [][]domain.Permit{{{ID: "id-1", Expires: 1_700_000_000_000_007}, {ID: "id-2", Expires: 1_700_000_000_000_009}}, nil, nil},
	}, results[3], "permits after all others")
}

func TestDecodeReply_refusesEveryElementThatIsWrong(t *testing.T) {
	reqs := fourGroups(t)
	wrong := map[string]func([]any) any{
		"nil":                    func([]any) any { return nil },
		"a string":               func([]any) any { return "OK" },
		"empty":                  func([]any) any { return []any{} },
		"one too few":            func(r []any) any { return r[:len(r)-1] },
		"one too many":           func(r []any) any { return append(r, int64(0)) },
		"another version":        func(r []any) any { r[0] = int64(1); return r },
		"negative time":          func(r []any) any { r[1] = int64(-1); return r },
		"time above 2^53":        func(r []any) any { r[1] = int64(1 << 53); return r },
		"verdict 4":              func(r []any) any { r[2] = int64(4); return r },
		"wrong period and more":  func(r []any) any { r[2] = int64(3); return r },
		"above the quota":        func(r []any) any { r[9] = int64(101); return r },
		"beyond all debt":        func(r []any) any { r[9] = int64(-1<<52 - 1); return r },
		"quota ahead of now":     func(r []any) any { r[10] = int64(1_700_000_000_000_001); return r },
		"quota without a time":   func(r []any) any { return r[:10] },
		"verdict -2":             func(r []any) any { r[2] = int64(-2); return r },
		"a take exceeds no debt": func(r []any) any { r[2] = int64(2); return r },
		"above full":             func(r []any) any { r[3] = int64(2_000_001); return r },
		"another above full":     func(r []any) any { r[6] = int64(2_000_001); return r },
		"NaN of Lua":             func(r []any) any { r[3] = int64(-1 << 63); return r },
		"a float":                func(r []any) any { r[3] = 1.5; return r },
		"text":                   func(r []any) any { r[3] = "1800000"; return r },
		"an error":               func(r []any) any { r[3] = errors.New("boom"); return r },
		"nested":                 func(r []any) any { r[3] = []any{int64(1)}; return r },
		"ahead of now":           func(r []any) any { r[7] = int64(1_700_000_000_000_001); return r },
		"before the epoch":       func(r []any) any { r[7] = int64(-1); return r },
		"failed without text":    func(r []any) any { r[2] = int64(-1); return r },
		"fewer than no permits":  func(r []any) any { r[13] = int64(-1); return r },
		"an expired permit":      func(r []any) any { r[14] = int64(1_699_999_999_999_999); return r },
		"expiry above 2^53":      func(r []any) any { r[14] = int64(1 << 53); return r },
		"a list of 101":          func(r []any) any { r[17] = int64(101); return r },
		"a list that is shorter": func(r []any) any { r[17] = int64(1); return r },
		"an ID that is a number": func(r []any) any { r[18] = int64(1); return r },
		"a listed one expired":   func(r []any) any { r[21] = int64(0); return r },
	}
	for name, change := range wrong {
		err := decodeReply(change(goodReply()), reqs, make([]ports.TakeResult, 4))
		assert.ErrorIs(t, err, ports.ErrUnavailable, name)
	}
}

func TestDecodeReply_oneGroupsFailureIsItsOwn(t *testing.T) {
	for message, want := range map[string]error{
		"WRONGTYPE Operation against a key":                        ports.ErrCorrupt,
		"CORRUPT field b:burst":                                    ports.ErrCorrupt,
		"ERR The user executing the script can't run this command": failure.ErrMayHaveRun,
		"ERR " + failure.EmptiedWhileMoving + " in a cluster node": ports.ErrNotRun,
	} {
		reply := append([]any{int64(5), int64(1_700_000_000_000_000), int64(-1), message}, goodReply()[4:]...)
		results := make([]ports.TakeResult, 4)
		require.NoError(t, decodeReply(reply, fourGroups(t), results))
		require.ErrorIs(t, results[0].Err, want)
		assert.ErrorContains(t, results[0].Err, message)
		require.NoError(t, results[1].Err)
		assert.Equal(t, domain.DebtExceeded, results[1].Verdict)
	}
}

func TestDecodeReply_wrongPeriodIsAnErrorWithTheServersTime(t *testing.T) {
	reply := append(goodReply()[:2], append([]any{int64(3)}, goodReply()[4:]...)...)
	results := make([]ports.TakeResult, 4)
	require.NoError(t, decodeReply(reply, fourGroups(t), results))
	require.ErrorIs(t, results[0].Err, script.ErrWrongPeriod)
	require.ErrorIs(t, results[0].Err, ports.ErrUnavailable)
	assert.Equal(t, domain.Instant(1_700_000_000_000_000), results[0].Now)
	assert.Equal(t, failure.Failure{Kind: failure.Period, Effect: ports.ErrNotRun}, failure.Classify(results[0].Err))
	assert.Equal(t, domain.DebtExceeded, results[1].Verdict)
}

func TestDecodeReply_severalRequestsOfOneGroup(t *testing.T) {
	burst := limit(t, "burst", "5/s", 10) // a token is worth 200,000 credits
	for name, c := range map[string]struct {
		verdict, level int64
		left           []int64
	}{
		"all pass":    {7, 600_000, []int64{400_000, 200_000, 0}},
		"some pass":   {5, 399_999, []int64{199_999, 199_999, 199_999}},
		"none passes": {4, -7, []int64{-7, -7, -7}},
		"too many":    {7, 399_999, nil},
		"too few":     {5, 400_000, nil},
		"impossible":  {8, 2_000_000, nil},
		"of one":      {1, 600_000, nil},
	} {
		requests, all := new(script.Batch), make([]script.Group, 3)
		for i := range all {
			all[i].Request = take("a", 1, burst)
			requests.Add(&all[i])
		}
		err := script.DecodeReply([]any{int64(5), int64(1_700_000_000_000_000), c.verdict, c.level}, requests.Groups())
		all[0].Settle()
		for i := range all {
			if c.left == nil {
				require.ErrorIs(t, errors.Join(err, all[i].Result.Err), ports.ErrUnavailable, name)
				continue
			}
			require.NoError(t, errors.Join(err, all[i].Result.Err), name)
			assert.EqualValues(t, c.left[i], all[i].Result.States[0].Amount, "%s: request %d", name, i)
			assert.Equal(t, int64(i) < c.verdict-4, all[i].Result.Verdict == domain.Allowed, "%s: request %d", name, i)
			assert.Equal(t, decision.StoreRedis, all[i].Result.Store)
		}
	}
}

// garble makes a reply out of bytes: a tag, then what it needs.
func garble(data []byte) any {
	elements := goodReply()[:0:0]
	for len(data) > 0 {
		tag := data[0]
		data = data[1:]
		switch {
		case int(tag) < len(goodReply()):
			elements = append(elements, goodReply()[tag])
		case tag < 30 && len(data) >= 8:
			elements = append(elements, int64(binary.LittleEndian.Uint64(data)))
			data = data[8:]
		case tag < 35:
			elements = append(elements, string(data))
		case tag < 40:
			elements = append(elements, nil)
		case tag < 50:
			return elements
		case tag < 60:
			elements = append(elements, errors.New("ERR"))
		case tag < 70:
			elements = append(elements, []any{elements})
		default:
			elements = append(elements, int64(int8(tag)))
		}
	}
	return elements
}

func FuzzDecodeReply(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22})
	f.Add([]byte{0, 1, 255, 30, 'W', 'R'})
	f.Add([]byte{0, 1, 2, 29, 0, 0, 0, 0, 0, 0, 0, 128, 4, 5, 6, 7})
	f.Add([]byte{})
	reqs := fourGroups(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		results := make([]ports.TakeResult, len(reqs))
		if err := decodeReply(garble(data), reqs, results); err != nil {
			require.ErrorIs(t, err, ports.ErrUnavailable)
			return
		}
		for i, r := range results {
			if r.Err != nil {
				continue
			}
			require.Len(t, r.States, len(reqs[i].Limits))
			for j, b := range r.States {
				l := reqs[i].Limits[j]
				least, most := -domain.MaxCredits, domain.Credits(l.Capacity())*b.TokenCredits
				if l.Quota() != nil {
					least, most = 0, most+domain.MaxCredits
				}
				if l.Concurrency() != nil {
					least, most = 0, 1<<32-1
					require.GreaterOrEqual(t, b.At, r.Now)
				} else {
					require.LessOrEqual(t, b.At, r.Now)
				}
				require.GreaterOrEqual(t, b.Amount, least)
				require.LessOrEqual(t, b.Amount, most)
			}
		}
	})
}
