package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by -ldflags "-X main.version=...".
var version = ""

// versionLine names the version, the commit it was built from and the compiler, as far as they are known.
func versionLine() string {
	v, commit := built()
	return fmt.Sprintf("velocity %s, commit %s, %s", v, commit, runtime.Version())
}

func built() (v, commit string) {
	v, commit = version, "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		commit = commitOf(info)
	}
	return v, commit
}

func commitOf(info *debug.BuildInfo) string {
	commit, changed := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return commit + changed
}
