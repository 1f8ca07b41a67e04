//go:build containers

package containermemory

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

var (
	sizes = flag.String("sizes", "64,128,512", "memory of the containers, in MiB")
	// The others are what a test in CI has time for.
	checks   = flag.Int("checks", 300_000, "new clients through /v1/checks")
	requests = flag.Int("requests", 20_000, "new clients through each other route")
)

// image has the service alone, as a static binary, unless it is another one.
var image = flag.String("image", "", "image to test, whose entry point is the service; empty: one made of the working tree")

func TestMain(m *testing.M) { os.Exit(withImage(m)) }

// withImage builds the service, and makes an image of it if none is given.
func withImage(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "velocity-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	harness.Binary = filepath.Join(dir, "velocity")
	steps := []*exec.Cmd{exec.Command("go", "build", "-o", harness.Binary, "../../cmd/api")}
	if *image == "" {
		*image = fmt.Sprintf("velocity-memory-test:%d", os.Getpid())
		defer func() { _ = exec.Command("docker", "image", "rm", *image).Run() }()
		steps[0].Env = append(os.Environ(), "CGO_ENABLED=0")
		steps = append(steps, exec.Command("sh", "-c", `tar -C "$1" -c velocity | docker import --change 'ENTRYPOINT ["/velocity"]' - "$2"`, "sh", dir, *image))
	}
	for _, step := range steps {
		if out, err := step.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", step, err, out)
			return 1
		}
	}
	return m.Run()
}

// container is a service in a container of its own, on the network of the host.
type container struct {
	*harness.Process
	name string
}

// start starts a container that may use so many MiB and no swap.
func start(t *testing.T, mib int, vars harness.Settings) *container {
	t.Helper()
	c := &container{name: "velocity-memory-" + strconv.Itoa(os.Getpid()) + "-" + strings.ReplaceAll(strings.ToLower(t.Name()), "/", "-")}
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", c.name).Run() })
	c.Process = harness.StartWith(t, vars, func(cmd *exec.Cmd) error {
		docker, err := exec.LookPath("docker")
		if err != nil {
			return err
		}
		size := strconv.Itoa(mib) + "m"
		cmd.Path = docker
		cmd.Args = []string{
			"docker", "run", "--name", c.name, "--log-driver", "none", "--network", "host", "--read-only", "--memory", size, "--memory-swap", size,
		}
		cmd.Stdout = &withoutDecisions{to: cmd.Stdout}
		for _, entry := range cmd.Env {
			cmd.Args = append(cmd.Args, "--env", entry)
		}
		cmd.Args = append(cmd.Args, *image)
		cmd.Env = os.Environ()
		return cmd.Start()
	})
	return c
}

// withoutDecisions passes a log on without the lines of decisions: a flood has millions.
type withoutDecisions struct {
	to   io.Writer
	rest []byte // of the last line, which is not complete
}

func (w *withoutDecisions) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, complete := bytes.Cut(w.rest, []byte("\n"))
		if !complete {
			return len(b), nil
		}
		if !bytes.Contains(line, []byte(`"msg":"Decision: `)) {
			if _, err := fmt.Fprintf(w.to, "%s\n", line); err != nil {
				return 0, err
			}
		}
		w.rest = rest
	}
}

// inspect returns what Docker says of the container, by a template.
func (c *container) inspect(template string) string {
	c.T.Helper()
	out, err := exec.Command("docker", "inspect", "-f", template, c.name).Output()
	require.NoError(c.T, err)
	return strings.TrimSpace(string(out))
}

// requireAlive requires that the kernel has killed nothing.
func (c *container) requireAlive() {
	c.T.Helper()
	require.Equal(c.T, "true false", c.inspect("{{.State.Running}} {{.State.OOMKilled}}"), "running, and not killed for its memory")
}

// peak returns the largest resident memory so far, in MiB.
func (c *container) peak() int {
	c.T.Helper()
	return status(c.T, c.inspect("{{.State.Pid}}"), "VmHWM") >> 20
}

// status returns a size in bytes that the kernel reports of a process.
func status(t *testing.T, pid, name string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	require.NoError(t, err)
	line := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(t, line)
	kib, err := strconv.Atoi(string(line[1]))
	require.NoError(t, err)
	return kib << 10
}

// The resident memory of the whole process with a million clients, minus that before the first of them, is at most 180 bytes a
// client. Each comes once through /v1/checks, with a key of 25 characters in all; nothing is given back before it is read (VmRSS).
func TestService_residentMemoryOfAClient(t *testing.T) {
	const clients = 1_000_000
	for range 3 {
		c := &container{Process: harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_API_TOKEN": token})}
		pid := strconv.Itoa(c.Cmd.Process.Pid)
		require.Equal(t, http.StatusOK, c.Resource().Status)
		empty := status(t, pid, "VmRSS")
		checksRoute.flood(c, clients)
		full := status(t, pid, "VmRSS")
		require.Equal(t, clients, int(c.Metric("velocity_memory_buckets", `store="memory"`)))
		c.Stop()
		t.Logf("%d bytes of resident memory a client: %d MiB, %d MiB when empty", (full-empty)/clients, full>>20, empty>>20)
		assert.LessOrEqual(t, (full-empty)/clients, 180)
	}
}

const token = "0123456789abcdef0123456789abcdef"

// No flood of new clients has the container killed, by any route, in memory and without Redis. Clients that have used up their
// limit stay denied: they are evicted last.
func TestMemory_floodsOfNewClients(t *testing.T) {
	for size := range strings.SplitSeq(*sizes, ",") {
		mib, err := strconv.Atoi(size)
		require.NoError(t, err)
		for _, store := range []string{"memory", "local"} {
			t.Run(size+"MiB/"+store, func(t *testing.T) { flood(t, mib, store) })
		}
	}
}

func flood(t *testing.T, mib int, store string) {
	vars := func() harness.Settings {
		v := harness.Settings{
			"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "10", "VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_API_TOKEN": token,
		}
		if store == "local" {
			v["VELOCITY_ON_STORE_FAILURE"] = "local"
		}
		return v
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(upstream.Close)
	for _, service := range []struct {
		name   string
		vars   harness.Settings
		routes []route
	}{
		{"api", harness.Settings{"VELOCITY_GRPC_ADDR": "127.0.0.1:0"}, []route{checksRoute, headerRoute, grpcRoute}},
		{"proxy", harness.Settings{"VELOCITY_UPSTREAM_URL": upstream.URL}, []route{headerRoute}},
	} {
		t.Run(service.name, func(t *testing.T) {
			all := vars()
			for name, value := range service.vars {
				all[name] = value
			}
			var redis *redistest.Server
			if store == "local" {
				redis = redistest.Start(t)
				all["VELOCITY_REDIS_ADDRS"] = redis.Addr
			}
			c := start(t, mib, all)
			require.Len(t, c.LogLines("Memory limit"), 1)
			if redis != nil {
				redis.Kill()
			}
			before := c.peak()
			spent := spendAll(c, "spent", 200)
			for _, r := range service.routes {
				count := *requests
				if r.name == checksRoute.name {
					count = *checks
				}
				start := time.Now()
				r.flood(c, count)
				c.requireAlive()
				t.Logf("%d MiB, %s, %s %s: %d new clients in %v, peak resident memory %d MiB, %d at the start",
					mib, store, service.name, r.name, count, time.Since(start).Round(time.Second), c.peak(), before)
			}
			for _, client := range spent {
				require.Equal(t, http.StatusTooManyRequests, c.ask(client), "%s has used up its limit", client)
			}
			spendAll(c, "later", 20)
			assert.Empty(t, c.Stderr.String())
		})
	}
}

// spendAll makes clients that use up their limits, and requires that they are denied then. It returns their names.
func spendAll(c *container, prefix string, n int) (clients []string) {
	c.T.Helper()
	for i := range n {
		client := prefix + "-" + strconv.Itoa(i)
		for range 10 {
			require.Equal(c.T, http.StatusOK, c.ask(client))
		}
		require.Equal(c.T, http.StatusTooManyRequests, c.ask(client))
		clients = append(clients, client)
	}
	return clients
}

// ask makes one request of a client.
func (c *container) ask(client string) int {
	c.T.Helper()
	return c.Resource("X-Client-ID: " + client).Status
}
