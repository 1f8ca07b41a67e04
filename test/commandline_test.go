package test

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// command runs the binary to its end.
func command(t *testing.T, vars settings, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{} // not nil, which would mean ours
	for name, value := range vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &out, &err
	var exit *exec.ExitError
	if e := cmd.Run(); e != nil && !errors.As(e, &exit) {
		require.NoError(t, e)
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

func TestCommandLine_wrongSettingsAreAllListed(t *testing.T) {
	code, stdout, stderr := command(t, settings{
		"VELOCITY_RATE":             "often",
		"VELOCITY_CAPACITY":         "-1",
		"VELOCITY_ON_STORE_FAILURE": "panic",
		"VELOCITY_TAKE_TIMEOUT":     "soon",
		"VELOCITY_TRUSTED_PROXIES":  "everyone",
		"VELOCITY_ADMIN_ADDR":       ":3001",
		"VELOCITY_LOG_DECISIONS":    "some",
		"REDIS_ADDR":                "redis://user:hush@redis:6379",
	})
	assert.Equal(t, 2, code)
	assert.Empty(t, stdout)
	assert.NotContains(t, stderr, "goroutine")
	assert.NotContains(t, stderr, "hush")
	for _, name := range []string{
		"VELOCITY_RATE", "VELOCITY_CAPACITY", "VELOCITY_ON_STORE_FAILURE", "VELOCITY_TAKE_TIMEOUT",
		"VELOCITY_TRUSTED_PROXIES", "VELOCITY_ADMIN_ADDR", "VELOCITY_LOG_DECISIONS", "VELOCITY_REDIS_ADDRS",
	} {
		assert.Equal(t, 1, strings.Count(stderr, "\n  "+name+": "), "%s in\n%s", name, stderr)
	}
	assert.Equal(t, 9, strings.Count(stderr, "\n"), "a headline, and a line for each:\n%s", stderr)
}

func TestCommandLine_aFileThatCannotBeReadIsAWrongSetting(t *testing.T) {
	code, _, stderr := command(t, settings{
		"REDIS_ADDR": "127.0.0.1:1", "VELOCITY_REDIS_TLS": "true", "VELOCITY_REDIS_TLS_CA_FILE": "/no/such/file",
	})
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "VELOCITY_REDIS_TLS_CA_FILE")
	assert.NotContains(t, stderr, "goroutine")
}

func TestCommandLine_aTakenPortFails(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	addr := taken.Addr().String()
	for _, vars := range []settings{
		{"VELOCITY_HTTP_ADDR": addr, "VELOCITY_ADMIN_ADDR": "127.0.0.1:0"},
		{"VELOCITY_HTTP_ADDR": "127.0.0.1:0", "VELOCITY_ADMIN_ADDR": addr},
	} {
		code, _, stderr := command(t, vars)
		assert.Equal(t, 1, code)
		assert.Contains(t, stderr, addr)
		assert.Contains(t, stderr, "address already in use")
		assert.NotContains(t, stderr, "goroutine")
	}
}

func TestCommandLine_usage(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		code, stdout, stderr := command(t, settings{"VELOCITY_API_TOKEN": "hush"}, flag)
		assert.Equal(t, 0, code, flag)
		assert.Empty(t, stderr, flag)
		for _, name := range []string{"VELOCITY_RATE", "VELOCITY_REDIS_ADDRS", "REDIS_ADDR", "VELOCITY_ADMIN_TOKEN"} {
			assert.Contains(t, stdout, "  "+name+" ", flag)
		}
		assert.NotContains(t, stdout, "hush", flag)
	}
}

func TestCommandLine_version(t *testing.T) {
	code, stdout, stderr := command(t, nil, "-version")
	assert.Equal(t, 0, code)
	assert.Empty(t, stderr)
	assert.Regexp(t, `^velocity v0\.0\.0-test, commit \S.*, go1\.\d+.*\n$`, stdout)
}

func TestCommandLine_wrongUsage(t *testing.T) {
	for _, args := range [][]string{{"serv"}, {"-x"}, {"healthcheck", "-v"}, {"-version", "now"}} {
		code, stdout, stderr := command(t, nil, args...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, stdout, args)
		assert.Contains(t, stderr, args[len(args)-1], args)
		assert.Regexp(t, `see api (healthcheck )?-h\n$`, stderr, args)
	}
}

func TestCommandLine_healthcheck(t *testing.T) {
	p := start(t, nil)
	vars := settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.admin, "http://")}
	code, stdout, stderr := command(t, vars, "healthcheck")
	assert.Equal(t, 0, code, stderr)
	assert.Empty(t, stdout+stderr)

	p.stop()
	code, _, stderr = command(t, vars, "healthcheck")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "not healthy")
}
