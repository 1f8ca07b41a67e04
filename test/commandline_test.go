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

	"github.com/velocity-limiter/velocity/test/harness"
)

// command runs the binary to its end.
func command(t *testing.T, vars harness.Settings, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.CommandContext(t.Context(), harness.Binary, args...)
	cmd.Env = harness.Env()
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
	code, stdout, stderr := command(t, harness.Settings{
		"VELOCITY_RATE":             "often",
		"VELOCITY_CAPACITY":         "-1",
		"VELOCITY_ON_STORE_FAILURE": "panic",
		"VELOCITY_TAKE_TIMEOUT":     "soon",
		"VELOCITY_TRUSTED_PROXIES":  "everyone",
		"VELOCITY_ADMIN_ADDR":       ":3001",
		"VELOCITY_LOG_DECISIONS":    "some",
		"REDIS_ADDR":                "redis://user:hush@redis:6379/hush",
	})
	assert.Equal(t, 2, code)
	assert.Empty(t, stdout)
	assert.NotContains(t, stderr, "goroutine")
	assert.NotContains(t, stderr, "hush")
	for _, name := range []string{
		"VELOCITY_RATE", "VELOCITY_CAPACITY", "VELOCITY_ON_STORE_FAILURE", "VELOCITY_TAKE_TIMEOUT",
		"VELOCITY_TRUSTED_PROXIES", "VELOCITY_ADMIN_ADDR", "VELOCITY_LOG_DECISIONS", "REDIS_ADDR",
	} {
		assert.Equal(t, 1, strings.Count(stderr, "\n  "+name+": "), "%s in\n%s", name, stderr)
	}
	assert.Equal(t, 9, strings.Count(stderr, "\n"), "a headline, and a line for each:\n%s", stderr)
}

func TestCommandLine_anUnreadableFileIsAWrongSetting(t *testing.T) {
	code, _, stderr := command(t, harness.Settings{
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
	for _, setting := range []string{"VELOCITY_HTTP_ADDR", "VELOCITY_ADMIN_ADDR", "VELOCITY_GRPC_ADDR"} {
		vars := harness.Settings{"VELOCITY_HTTP_ADDR": "127.0.0.1:0", "VELOCITY_ADMIN_ADDR": "127.0.0.1:0"}
		vars[setting] = addr
		code, _, stderr := command(t, vars)
		assert.Equal(t, 1, code)
		assert.Contains(t, stderr, "velocity: "+setting+": ")
		assert.Contains(t, stderr, addr)
		assert.Contains(t, stderr, "address already in use")
		assert.NotContains(t, stderr, "goroutine")
	}
}

func TestCommandLine_usage(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		code, stdout, stderr := command(t, harness.Settings{"VELOCITY_API_TOKEN": "hush"}, flag)
		assert.Equal(t, 0, code, flag)
		assert.Empty(t, stderr, flag)
		for _, name := range []string{"VELOCITY_RATE", "VELOCITY_REDIS_ADDRS", "REDIS_ADDR", "VELOCITY_ADMIN_TOKEN"} {
			assert.Contains(t, stdout, "  "+name+" ", flag)
		}
		assert.NotContains(t, stdout, "hush", flag)
	}
}

func TestCommandLine_help(t *testing.T) {
	_, want, _ := command(t, nil, "-h")
	for _, args := range [][]string{{"help"}, {"help", "help"}, {"help", "version"}} {
		code, stdout, stderr := command(t, nil, args...)
		assert.Equal(t, 0, code, args)
		assert.Equal(t, want, stdout, args)
		assert.Empty(t, stderr, args)
	}
	for _, name := range []string{"healthcheck", "validate", "explain", "simulate", "status", "top", "inspect", "reset", "override"} {
		assert.Contains(t, want, "\n  velocity "+name+" ", name)
		_, want, _ := command(t, nil, name, "-h")
		code, stdout, stderr := command(t, nil, "help", name)
		assert.Equal(t, 0, code, name)
		assert.Regexp(t, "^Usage: velocity "+name+"[ \n]", stdout)
		assert.Equal(t, want, stdout, name)
		assert.Empty(t, stderr, name)
	}
	for args, want := range map[string]string{
		"validat":      "velocity: unknown command \"validat\" (did you mean validate?); see velocity -h\n",
		"frobnicate":   "velocity: unknown command \"frobnicate\"; see velocity -h\n",
		"help explian": "velocity: unknown command \"explian\" (did you mean explain?); see velocity -h\n",
		"help top now": "velocity: unknown argument \"now\"; see velocity -h\n",
		"-x":           "velocity: unknown command \"-x\"; see velocity -h\n",
	} {
		code, stdout, stderr := command(t, nil, strings.Fields(args)...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, stdout, args)
		assert.Equal(t, want, stderr, args)
	}
}

func TestCommandLine_version(t *testing.T) {
	code, stdout, stderr := command(t, nil, "-version")
	assert.Equal(t, 0, code)
	assert.Empty(t, stderr)
	assert.Regexp(t, `^velocity v0\.0\.0-test, commit \S.*, go1\.\d+.*, time zones 20\d\d[a-z]\n$`, stdout)
}

func TestCommandLine_wrongUsage(t *testing.T) {
	for _, args := range [][]string{{"serv"}, {"-x"}, {"healthcheck", "-v"}, {"-version", "now"}} {
		code, stdout, stderr := command(t, nil, args...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, stdout, args)
		assert.Contains(t, stderr, args[len(args)-1], args)
		assert.Regexp(t, `see velocity (healthcheck )?-h\n$`, stderr, args)
	}
}

func TestCommandLine_healthcheck(t *testing.T) {
	p := harness.Start(t, nil)
	vars := harness.Settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.Admin, "http://")}
	code, stdout, stderr := command(t, vars, "healthcheck")
	assert.Equal(t, 0, code, stderr)
	assert.Empty(t, stdout+stderr)

	p.Stop()
	code, _, stderr = command(t, vars, "healthcheck")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "not healthy")
}
