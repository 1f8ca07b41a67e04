package process

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime returns the CPU time, user and system, that a process has used, with all its threads and those that have
// ended. It reads the kernel's CPU clock of that process, which counts nanoseconds; /proc/<pid>/stat counts in
// hundredths of a second, and /proc/<pid>/schedstat knows the first thread alone.
func CPUTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED: the scheduler's own sum, not sampled at ticks
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("read CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// OwnCPUTime is CPUTime of this process.
func OwnCPUTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic("process: a process can always read its own CPU clock: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
