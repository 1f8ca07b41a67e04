package redisstore_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Two groups, of one limit and of two, of which one counts in ticks of 1 ms; a token of 5/s is worth 200,000 credits.
func twoGroups(t testing.TB) []ports.TakeRequest {
	burst, yearly := limit(t, "burst", "5/s", 10), limit(t, "yearly", "7/8760h", 500)
	charge := take("b", 1, yearly, burst)
	charge.Op = domain.OpCharge
	return []ports.TakeRequest{take("a", 1, burst), charge}
}

func goodReply() []any {
	return []any{
		int64(2), int64(1_700_000_000_000_000),
		int64(1), int64(1_800_000),
		int64(2), int64(-5), int64(2_000_000), int64(1_699_999_999_999_999),
	}
}

func TestDecodeReply_good(t *testing.T) {
	results := make([]ports.TakeResult, 2)
	require.NoError(t, redisstore.DecodeReply(goodReply(), twoGroups(t), results))
	assert.Equal(t, ports.TakeResult{
		Verdict: domain.Allowed, Now: 1_700_000_000_000_000, Store: domain.StoreRedis,
		Buckets: []domain.Bucket{{Credits: 1_800_000, At: 1_700_000_000_000_000, TokenCredits: 200_000}},
	}, results[0])
	assert.Equal(t, domain.DebtExceeded, results[1].Verdict)
	assert.Equal(t, []domain.Bucket{
		{Credits: -5, At: 1_699_999_999_999_999, TokenCredits: 31_536_000_000},
		{Credits: 2_000_000, At: 1_700_000_000_000_000, TokenCredits: 200_000},
	}, results[1].Buckets)
}

func TestDecodeReply_refusesEveryElementThatIsWrong(t *testing.T) {
	reqs := twoGroups(t)
	wrong := map[string]func([]any) any{
		"nil":                    func([]any) any { return nil },
		"a string":               func([]any) any { return "OK" },
		"empty":                  func([]any) any { return []any{} },
		"one too few":            func(r []any) any { return r[:len(r)-1] },
		"one too many":           func(r []any) any { return append(r, int64(0)) },
		"another version":        func(r []any) any { r[0] = int64(1); return r },
		"negative time":          func(r []any) any { r[1] = int64(-1); return r },
		"time above 2^53":        func(r []any) any { r[1] = int64(1 << 53); return r },
		"verdict 3":              func(r []any) any { r[2] = int64(3); return r },
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
	}
	for name, change := range wrong {
		err := redisstore.DecodeReply(change(goodReply()), reqs, make([]ports.TakeResult, 2))
		assert.ErrorIs(t, err, ports.ErrUnavailable, name)
	}
}

func TestDecodeReply_oneGroupsFailureIsItsOwn(t *testing.T) {
	for message, want := range map[string]error{
		"WRONGTYPE Operation against a key":                        ports.ErrCorrupt,
		"CORRUPT field b:burst":                                    ports.ErrCorrupt,
		"ERR The user executing the script can't run this command": ports.ErrUnavailable,
	} {
		reply := append([]any{int64(2), int64(1_700_000_000_000_000), int64(-1), message}, goodReply()[4:]...)
		results := make([]ports.TakeResult, 2)
		require.NoError(t, redisstore.DecodeReply(reply, twoGroups(t), results))
		require.ErrorIs(t, results[0].Err, want)
		assert.ErrorContains(t, results[0].Err, message)
		require.NoError(t, results[1].Err)
		assert.Equal(t, domain.DebtExceeded, results[1].Verdict)
	}
}

// garble makes a reply out of bytes: a tag, then what it needs.
func garble(data []byte) any {
	elements := goodReply()[:0:0]
	for len(data) > 0 {
		tag := data[0]
		data = data[1:]
		switch {
		case tag < 8:
			elements = append(elements, goodReply()[tag])
		case tag < 20 && len(data) >= 8:
			elements = append(elements, int64(binary.LittleEndian.Uint64(data)))
			data = data[8:]
		case tag < 30:
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
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0, 1, 255, 20, 'W', 'R'})
	f.Add([]byte{0, 1, 2, 10, 0, 0, 0, 0, 0, 0, 0, 128, 4, 5, 6, 7})
	f.Add([]byte{})
	reqs := twoGroups(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		results := make([]ports.TakeResult, len(reqs))
		if err := redisstore.DecodeReply(garble(data), reqs, results); err != nil {
			require.ErrorIs(t, err, ports.ErrUnavailable)
			return
		}
		for i, r := range results {
			if r.Err != nil {
				continue
			}
			require.Len(t, r.Buckets, len(reqs[i].Limits))
			for j, b := range r.Buckets {
				l := reqs[i].Limits[j]
				require.LessOrEqual(t, b.Credits, domain.Credits(l.Capacity())*l.TokenCredits())
				require.GreaterOrEqual(t, b.Credits, -domain.MaxCredits)
				require.LessOrEqual(t, b.At, r.Now)
			}
		}
	})
}
