package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// version is set by -ldflags "-X main.version=...".
var version = ""

// versionLine returns the version, the commit it was built from, the compiler, and the version of the time-zone database,
// by which quotas find their days: nodes with different ones may disagree on them.
func versionLine() string {
	v, commit := built()
	return fmt.Sprintf("velocity %s, commit %s, %s, time zones %s", v, commit, runtime.Version(), calendar.ZonesVersion())
}

// built returns the version and the commit. Each is "" or "unknown" if the build does not record it.
func built() (string, string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, "unknown"
	}
	commit, changed := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return cmp.Or(version, info.Main.Version), commit + changed
}
