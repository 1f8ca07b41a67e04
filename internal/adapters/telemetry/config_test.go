package telemetry_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
)

func TestConfigValidate_reportsEveryViolationWithItsValue(t *testing.T) {
	err := telemetry.Config{LogLevel: "loud", LogFormat: "xml", LogDecisions: "some"}.Validate()
	require.Error(t, err)
	assert.Contains(t, err.Error(), `LOG_LEVEL: "loud": must be`)
	assert.Contains(t, err.Error(), `LOG_FORMAT: "xml": must be auto, json or console`)
	assert.Contains(t, err.Error(), `LOG_DECISIONS: "some": must be`)
}

func TestConfigValidate_levels(t *testing.T) {
	for _, level := range []string{"debug", "info", "warn", "error"} {
		require.NoError(t, telemetry.Config{LogLevel: level, LogDecisions: "all"}.Validate(), level)
	}
	for _, level := range []string{"", "fatal", "panic", "dpanic", "1"} {
		require.Error(t, telemetry.Config{LogLevel: level, LogDecisions: "all"}.Validate(), level)
	}
}
