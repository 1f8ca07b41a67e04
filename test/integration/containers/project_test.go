//go:build containers

package containers

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	root = "../../.."
	// token is that of the decision API.
	token = "containers"
	// waitTimeout bounds every wait for a condition.
	waitTimeout = 45 * time.Second
)

// project is a compose file that runs under a project name and on ports of its own.
type project struct {
	name    string
	command []string // the compose command with the project's name and files
	env     []string
	nodes   []node
	client  *http.Client
}

// node is a service of a project that runs Velocity.
type node struct {
	service  string
	variable string // of the compose file, says where the data plane is published
	addr     string // host:port on loopback
}

// newProject prepares a project of a compose file, and of files in testdata that change it. Nothing is started yet; the end of the
// test removes whatever was.
func newProject(t *testing.T, nodes []node, files ...string) *project {
	p := &project{
		name:   fmt.Sprintf("velocitytest%d%s", os.Getpid(), strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))),
		env:    append(os.Environ(), "VELOCITY_API_TOKEN="+token),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128}},
	}
	p.command = append(composeCommand(), "-p", p.name)
	for i, file := range files {
		if i > 0 {
			file = filepath.Join("test/integration/containers/testdata", file)
		}
		p.command = append(p.command, "-f", file)
	}
	for _, n := range nodes {
		n.addr = freeAddr(t)
		p.nodes = append(p.nodes, n)
		p.env = append(p.env, n.variable+"="+n.addr)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := run(p.env, append(p.command, "logs", "--tail", "40")...)
			t.Logf("logs of %s:\n%s", p.name, out)
		}
		_, err := run(p.env, append(p.command, "down", "-v", "--remove-orphans", "--timeout", "1")...)
		require.NoError(t, err)
		for network := range strings.FieldsSeq(docker(t, "network", "ls", "-q", "--filter", "name="+p.name)) {
			docker(t, "network", "rm", network)
		}
	})
	return p
}

// composeCommand returns today's `docker compose` if it is installed, and docker-compose otherwise.
func composeCommand() []string {
	if exec.Command("docker", "compose", "version").Run() == nil {
		return []string{"docker", "compose"}
	}
	return []string{"docker-compose"}
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// run runs a command in the root of the repository, and returns what it prints. The error has the standard error.
func run(env []string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = root, env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, stderr.String(), stdout.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// docker runs a command of docker.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(nil, append([]string{"docker"}, args...)...)
	require.NoError(t, err)
	return out
}

// redisCLI runs a command of redis-cli in a container.
func redisCLI(t *testing.T, id string, args ...string) string {
	t.Helper()
	return docker(t, append([]string{"exec", id, "redis-cli", "-e"}, args...)...)
}

// inspect returns one value of a container's or an image's description, as a Go template.
func inspect(t *testing.T, id, template string) string {
	t.Helper()
	return docker(t, "inspect", "-f", template, id)
}

// address returns the address of a container that is in one network.
func address(t *testing.T, id string) string {
	t.Helper()
	return inspect(t, id, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
}

// compose runs a command of compose, such as up.
func (p *project) compose(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(p.env, append(p.command, args...)...)
	require.NoError(t, err)
	return out
}

// id returns the container of a service, which may be stopped.
func (p *project) id(t *testing.T, service string) string {
	t.Helper()
	id := docker(t, "ps", "-a", "-q", "--no-trunc",
		"--filter", "label=com.docker.compose.project="+p.name, "--filter", "label=com.docker.compose.service="+service)
	require.NotEmpty(t, id, service)
	return id
}

// network returns the name of the network that the services share.
func (p *project) network() string { return p.name + "_default" }

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "not within "+waitTimeout.String()+": "+what)
		}
	}
}
