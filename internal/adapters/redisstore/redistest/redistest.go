// Package redistest starts real redis-server processes for tests.
//
// Each server listens on a free port of 127.0.0.1, works in its own temporary directory, saves nothing unless a test asks
// for it, and is killed when its test ends. Nothing is mocked, and no other server is touched. Without redis-server a test
// fails and names the package to install: a skipped test would prove nothing.
package redistest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// startTimeout is generous: a machine that runs several suites at once is slow.
	startTimeout = time.Minute
	pollInterval = 5 * time.Millisecond
	// startAttempts covers a port that another process took after it was chosen here and before the server bound it.
	startAttempts = 5

	logFile = "redis.log" // in Server.Dir
)

// Server is one redis-server process. It belongs to the test that started it, and is not safe for concurrent use.
type Server struct {
	// Addr is host:port. It stays the same through Kill, Stop and Restart.
	Addr string
	// Dir is the server's working directory, where it keeps its data and its log (redis.log).
	Dir string

	t      testing.TB
	port   int
	binary string
	config string // path of a configuration file, where one is needed
	args   []string
	env    []string
	tls    bool
	client *redis.Client // follows no redirects, and waits long for a busy machine
	cmd    *exec.Cmd
	exit   chan struct{} // closed when the process has been reaped
}

// Option changes how a server is started.
type Option func(*Server)

// Args adds arguments to the command line, for example "--maxmemory", "2mb". A later argument overrides an earlier one.
func Args(args ...string) Option {
	return func(s *Server) { s.args = append(s.args, args...) }
}

// Env adds variables, each NAME=value, to the server's environment.
func Env(vars ...string) Option {
	return func(s *Server) { s.env = append(s.env, vars...) }
}

// TLS makes the server accept only TLS, with this certificate and key, and without a client certificate.
func TLS(certFile, keyFile, caFile string) Option {
	return func(s *Server) {
		s.tls = true
		s.args = append(s.args, "--tls-cert-file", certFile, "--tls-key-file", keyFile,
			"--tls-ca-cert-file", caFile, "--tls-auth-clients", "no")
	}
}

// Start starts a server and returns when it answers. The test's cleanup kills it.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{t: t, Dir: t.TempDir(), binary: lookPath(t)}
	for _, opt := range opts {
		opt(s)
	}
	t.Cleanup(s.Kill)
	for range startAttempts {
		s.port = FreePort(t)
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
		if s.launch() {
			s.client = redis.NewClient(&redis.Options{
				Addr: s.Addr, Protocol: 2, DisableIdentity: true, PipelinePoolSize: -1, MaxRetries: -1, DialerRetries: 1,
				ReadTimeout: startTimeout, DialTimeout: startTimeout,
			})
			t.Cleanup(func() { _ = s.client.Close() })
			return s
		}
	}
	t.Fatalf("redis-server did not start on any of %d ports; its log:\n%s", startAttempts, s.log())
	return nil
}

// StartN starts n servers and returns them with their addresses.
func StartN(t testing.TB, n int, opts ...Option) (servers []*Server, addrs []string) {
	t.Helper()
	for range n {
		s := Start(t, opts...)
		servers, addrs = append(servers, s), append(addrs, s.Addr)
	}
	return servers, addrs
}

// FreePort returns a port that was free a moment ago, for a server to listen on. It is below the ports that Linux gives to
// outgoing connections, one of which might take it meanwhile.
func FreePort(t testing.TB) int {
	t.Helper()
	var err error
	for range 100 {
		port := 10_000 + rand.IntN(22_000)
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":"+strconv.Itoa(port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("no free port: %v", err)
	return 0
}

func lookPath(t testing.TB) string {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("these tests need a real Redis, version 7.0 or newer: apt-get install redis-server (%v)", err)
	}
	return binary
}

// launch starts the process on s.port and reports whether it came up. It fails the test only if the process lives
// but never answers.
func (s *Server) launch() bool {
	s.t.Helper()
	s.start()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		select {
		case <-s.exit:
			return false
		case <-time.After(pollInterval):
		}
		if answers(s.Addr, s.tls) {
			return true
		}
	}
	s.t.Fatalf("redis-server on %s does not answer; its log:\n%s", s.Addr, s.log())
	return false
}

// start starts the process on s.port.
func (s *Server) start() {
	s.t.Helper()
	plain, secure := s.port, 0
	if s.tls {
		plain, secure = 0, s.port
	}
	args := []string{
		"--port", strconv.Itoa(plain), "--tls-port", strconv.Itoa(secure), "--bind", "127.0.0.1",
		"--dir", s.Dir, "--logfile", filepath.Join(s.Dir, logFile),
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}
	if s.config != "" {
		args = append([]string{s.config}, args...)
	}
	s.cmd = exec.Command(s.binary, append(args, s.args...)...) // no context: Kill ends it
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.SysProcAttr = dieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting %s: %v", s.binary, err)
	}
	s.exit = make(chan struct{})
	go func(cmd *exec.Cmd, exit chan struct{}) {
		_ = cmd.Wait() // a killed server's status says nothing
		close(exit)
	}(s.cmd, s.exit)
}

// Kill ends the process at once, as kill -9 does, and waits until it is gone. Killing twice is fine.
func (s *Server) Kill() { s.signalAndWait(syscall.SIGKILL) }

// Stop asks the process to end (SIGTERM) and waits until it is gone.
func (s *Server) Stop() { s.signalAndWait(syscall.SIGTERM) }

// Pause freezes the process (SIGSTOP): it still accepts connections, and answers nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// Restart starts the server again, after Kill or Stop, on the same port and directory, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if !s.launch() {
		s.t.Fatalf("redis-server did not come back on %s; its log:\n%s", s.Addr, s.log())
	}
}

// RestartLoading is Restart, but returns when the server accepts connections: it may still load its data.
func (s *Server) RestartLoading() {
	s.t.Helper()
	s.Kill()
	s.start()
	await(s.t, "redis-server on "+s.Addr+" to listen", func() bool {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// PID is the process's id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// exited reports whether the process is gone.
func (s *Server) exited() bool {
	select {
	case <-s.exit:
		return true
	default:
		return false
	}
}

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Errorf("sending %v to redis-server on %s: %v", sig, s.Addr, err)
	}
}

func (s *Server) signalAndWait(sig os.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig) // it may be gone already
	select {
	case <-s.exit:
	case <-time.After(startTimeout):
		s.t.Errorf("redis-server on %s ignores %v", s.Addr, sig)
	}
}

// log returns the end of the server's log, for the message of a failed start.
func (s *Server) log() []byte {
	text, err := os.ReadFile(filepath.Join(s.Dir, logFile))
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-10):], []byte("\n"))
}

// answers reports whether a server at addr is up: it answers PING, or refuses it for want of a password. One that
// still loads its data is not up.
func answers(addr string, secure bool) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // a test's own server on loopback
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && !strings.HasPrefix(line, "-LOADING")
}
