package machine_test

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/bench/internal/machine"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

func TestDescribe_knowsThisMachine(t *testing.T) {
	for _, f := range machine.Describe() {
		assert.NotEmpty(t, f.Value, f.Name)
		assert.NotEqual(t, "unknown", f.Value, f.Name)
	}
}

func TestModules_areThoseBuiltIn(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Path: "main", Version: "v3.0.0"}, Deps: []*debug.Module{{Path: "a", Version: "v1.0.0"}, {Path: "b", Version: "v2.0.0"}}}
	assert.Equal(t, []report.Fact{{Name: "b", Value: "v2.0.0"}, {Name: "main", Value: "v3.0.0"}},
		machine.Modules(info, "b", "not built in", "main"))
	assert.Empty(t, machine.Modules(nil, "a"))
}
