package test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// Two nodes whose clocks differ by two hours limit a client as one node does: Redis's clock decides, not theirs.
func TestClocks_ofTheNodesDoNotMatter(t *testing.T) {
	const capacity, perSecond = 100, 10
	server := redistest.Start(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	vars := harness.Settings{
		"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_CAPACITY": fmt.Sprint(capacity), "VELOCITY_RATE": fmt.Sprintf("%d/s", perSecond),
		"VELOCITY_TAKE_TIMEOUT": harness.Timeout.String(), "VELOCITY_ON_STORE_FAILURE": "closed",
	}
	offsets := []time.Duration{time.Hour, -time.Hour}
	nodes := make([]*harness.Process, len(offsets))
	for i, offset := range offsets {
		nodes[i] = harness.StartWith(t, vars, withClock(offset))
	}

	now := func() time.Time {
		at, err := c.Time(t.Context()).Result()
		require.NoError(t, err)
		return at
	}
	before := now()
	require.Equal(t, http.StatusOK, nodes[0].Resource().Status)
	admitted, first := 1, now()
	var last time.Time // the last request was denied, and asked for after this
	for i := 0; ; i++ {
		asked := now()
		a := nodes[i%len(nodes)].Resource()
		require.Contains(t, []int{http.StatusOK, http.StatusTooManyRequests}, a.Status, a.Body)
		if a.Status == http.StatusOK {
			admitted++
		} else if last = asked; last.Sub(first) > 2*time.Second && i > 2*capacity {
			break
		}
	}
	refilled := func(d time.Duration) float64 { return perSecond * d.Seconds() }
	assert.LessOrEqual(t, float64(admitted), capacity+refilled(now().Sub(before)), "admitted by both together")
	assert.GreaterOrEqual(t, float64(admitted), capacity+refilled(last.Sub(first))-1, "no token is lost")

	for i, p := range nodes {
		date, err := http.ParseTime(p.Resource().Header.Get("Date"))
		require.NoError(t, err)
		assert.InDelta(t, offsets[i].Seconds(), time.Until(date).Seconds(), 60, "its clock is off")
		warned := p.LogLines("A shard's clock differs from this machine's: look after both")
		require.Len(t, warned, 1)
		ahead, err := time.ParseDuration(warned[0]["ahead"].(string))
		require.NoError(t, err)
		assert.InDelta(t, -offsets[i].Seconds(), ahead.Seconds(), 60)
	}
}

// The periods of a quota begin and end by Redis's clock, though the nodes' clocks are two hours apart: each admits the quota,
// not one more and not one less.
func TestClocks_ofTheNodesDoNotMoveThePeriodsOfAQuota(t *testing.T) {
	const size, period = 30, 2 * time.Second
	server := redistest.Start(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	vars := harness.Settings{
		"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_TAKE_TIMEOUT": harness.Timeout.String(), "VELOCITY_ON_STORE_FAILURE": "closed",
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", fmt.Sprintf(
			"policies: [ { name: default, match: { path: /** }, limits: [ { quota: %d/%v } ] } ]", size, period)),
	}
	nodes := []*harness.Process{harness.StartWith(t, vars, withClock(time.Hour)), harness.StartWith(t, vars, withClock(-time.Hour))}
	number := func() int64 { // of the period that Redis is in
		at, err := c.Time(t.Context()).Result()
		require.NoError(t, err)
		return at.UnixMicro() / period.Microseconds()
	}

	admitted, denied := map[int64]int{}, map[int64]bool{}
	first, deadline := number()+1, time.Now().Add(harness.Timeout)
	for i, asked := 0, number(); asked < first+3; i++ {
		a := nodes[i%len(nodes)].Resource()
		answered := number()
		switch {
		case a.Status == http.StatusTooManyRequests:
			denied[asked] = denied[asked] || asked == answered
		case asked == answered || denied[asked]:
			require.Equal(t, http.StatusOK, a.Status, a.Body)
			admitted[answered]++
		default: // it may have been decided in either period
			require.True(t, time.Now().Before(deadline), "no period used its quota up")
			first = answered + 1
		}
		asked = answered
	}
	for n := first; n < first+3; n++ {
		assert.True(t, denied[n], "the period was used up")
		assert.Equal(t, size, admitted[n], "admitted in period %d", n-first)
	}
}

// withClock returns a function that starts a process whose wall clock is off by offset. A Go program gets the time from
// code of the kernel that is mapped into each process (the vDSO), so preloading a library has no effect. withClock replaces
// that code, in the memory of this process alone, before its first instruction runs.
func withClock(offset time.Duration) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		runtime.LockOSThread() // ptrace belongs to a thread
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		pid := cmd.Process.Pid
		if _, err := syscall.Wait4(pid, nil, syscall.WALL, nil); err != nil { // it stops when it has become the program
			return err
		}
		at, size, err := clockFunction(pid)
		if err != nil {
			return err
		}
		code := clockCode(offset)
		if uint64(len(code)) > size {
			return fmt.Errorf("the kernel's clock_gettime has %d bytes, too few for %d", size, len(code))
		}
		if _, err := syscall.PtracePokeText(pid, at, code); err != nil {
			return fmt.Errorf("replacing clock_gettime: %w", err)
		}
		return syscall.PtraceDetach(pid)
	}
}

// clockCode is machine code for clock_gettime(id, at): it makes the system call and adds seconds to the wall clock.
func clockCode(offset time.Duration) []byte {
	code := []byte{
		0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 0x07, // jne over the addition, unless it is CLOCK_REALTIME
		0x48, 0x81, 0x06, // add qword ptr [rsi], seconds
	}
	seconds := uint32(int32(offset / time.Second))
	return append(code, byte(seconds), byte(seconds>>8), byte(seconds>>16), byte(seconds>>24), 0xc3) // ret
}

// clockFunction returns address and size of the kernel's clock_gettime in the memory of a process.
func clockFunction(pid int) (at uintptr, size uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, 0, err
		}
		image := make([]byte, to-from)
		if _, err := syscall.PtracePeekText(pid, from, image); err != nil {
			return 0, 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, 0, err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, 0, err
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + uintptr(s.Value), s.Size, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("process %d has no clock_gettime of the kernel's", pid)
}
