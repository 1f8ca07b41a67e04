// Package machine describes what a measurement ran on and with.
package machine

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/velocity-limiter/velocity/bench/internal/report"
)

// Describe returns the processor, its cores, the memory and the kernel.
func Describe() []report.Fact {
	facts := []report.Fact{
		{Name: "processor", Value: fromFile("/proc/cpuinfo", "model name")},
		{Name: "CPUs", Value: fmt.Sprint(runtime.NumCPU())},
		{Name: "memory", Value: fromFile("/proc/meminfo", "MemTotal")},
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		facts = append(facts, report.Fact{
			Name: "kernel", Value: unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]) +
				" " + unix.ByteSliceToString(name.Machine[:]),
		})
	}
	return facts
}

func fromFile(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	return field(f, name)
}

// field returns the first "name : value" of a file in /proc.
func field(r io.Reader, name string) string {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		key, value, found := strings.Cut(lines.Text(), ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// Modules returns the versions of these modules that a program was built from, in their order. info is nil if the
// program does not know.
func Modules(info *debug.BuildInfo, paths ...string) []report.Fact {
	var facts []report.Fact
	if info == nil {
		return facts
	}
	for _, path := range paths {
		if info.Main.Path == path {
			facts = append(facts, report.Fact{Name: path, Value: info.Main.Version})
			continue
		}
		i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == path })
		if i >= 0 {
			facts = append(facts, report.Fact{Name: path, Value: info.Deps[i].Version})
		}
	}
	return facts
}
