package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// SentinelMaster is the name of the primary in every Sentinels.
const SentinelMaster = "main"

// failoverTimeout is after how long a sentinel gives up a failover.
const failoverTimeout = 5 * time.Second

// Sentinels are a primary, its replica, and three sentinels that watch them. They belong to the test that started them.
type Sentinels struct {
	// Servers are the primary and its replica, as they were at the start.
	Servers []*Server
	// Watchers are the sentinels. Two of them must agree that the primary is down.
	Watchers []*Server

	t testing.TB
}

// StartSentinel starts a primary, a replica and three sentinels, and returns when these know of each other. A primary
// that is silent for a second is replaced. The options are the replica's.
func StartSentinel(t testing.TB, ofReplica ...Option) *Sentinels {
	t.Helper()
	s := &Sentinels{t: t}
	diskless := Args("--repl-diskless-sync-delay", "0")
	primary := Start(t, diskless)
	following := Args("--replicaof", "127.0.0.1", fmt.Sprint(primary.port))
	replica := Start(t, append([]Option{diskless, following}, ofReplica...)...)
	s.Servers = []*Server{primary, replica}
	for range 3 {
		s.Watchers = append(s.Watchers, Start(t, watching(primary)))
	}
	for _, w := range s.Watchers {
		// By default the sentinels look at the servers every 10 s, and tell each other what they know every 2 s. One that has not heard
		// of a failover makes the new primary a replica again after four times that, so it must not be much shorter.
		if err := w.client.Do(t.Context(), "sentinel", "debug", "info-period", 200, "publish-period", 1000).Err(); err != nil {
			t.Fatalf("SENTINEL DEBUG: %v", err)
		}
	}
	s.AwaitWhole()
	t.Cleanup(func() {
		if t.Failed() {
			s.logLast(40)
		}
	})
	return s
}

// logLast logs the last lines that each server wrote: sentinels say there why they did or did not fail over.
func (s *Sentinels) logLast(n int) {
	for _, server := range slices.Concat(s.Watchers, s.Servers) {
		text, err := os.ReadFile(filepath.Join(server.Dir, logFile))
		lines := strings.Split(string(text), "\n")
		s.t.Log(server.Addr, err, strings.Join(lines[max(0, len(lines)-n):], "\n"))
	}
}

// watching makes a server a sentinel. Sentinels keep what they learn in their configuration file.
func watching(primary *Server) Option {
	return func(s *Server) {
		s.t.Helper()
		s.config = filepath.Join(s.Dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s 1000\n"+
			"sentinel failover-timeout %[1]s %[3]d\n", SentinelMaster, primary.port, failoverTimeout.Milliseconds())
		if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
			s.t.Fatalf("a sentinel's configuration: %v", err)
		}
		s.args = append(s.args, "--sentinel")
	}
}

// Addrs are the addresses of the sentinels.
func (s *Sentinels) Addrs() []string { return addrsOf(s.Watchers) }

// Client is a client of one server or sentinel.
func (s *Sentinels) Client(server *Server) *redis.Client { return server.client }

// Primary is the server that the first sentinel alive names as the primary.
func (s *Sentinels) Primary() *Server {
	s.t.Helper()
	addr := s.primaryOf(s.watcher())
	return find(s.t, "server at "+addr, s.Servers, func(server *Server) bool { return server.Addr == addr })
}

// Other is the server that is not this one.
func (s *Sentinels) Other(server *Server) *Server {
	if server == s.Servers[0] {
		return s.Servers[1]
	}
	return s.Servers[0]
}

// Failover has the sentinels make the replica the primary, and returns it. Sentinels give a failover up when the
// replica does not follow in time (or was just not in reach), and do not try again by themselves: so it is asked for
// again, but not once the sentinel that was asked has made it the primary: that would be a failover back.
func (s *Sentinels) Failover() *Server {
	s.t.Helper()
	old := s.Primary()
	next := s.Other(old)
	var asked time.Time
	await(s.t, "the sentinels to make "+next.Addr+" the primary", func() bool {
		if s.named(next) {
			return true
		}
		if watcher := s.watcher(); time.Since(asked) > failoverTimeout && s.primaryOf(watcher) == old.Addr {
			asked = time.Now()
			// An error says that a failover runs, or that the replica is not in reach at this moment.
			_ = watcher.client.Do(context.Background(), "sentinel", "failover", SentinelMaster).Err()
		}
		return false
	})
	return next
}

// AwaitPrimary waits until all sentinels alive name the server as the primary.
func (s *Sentinels) AwaitPrimary(server *Server) {
	s.t.Helper()
	await(s.t, "the sentinels to name "+server.Addr, func() bool { return s.named(server) })
}

// named reports whether all sentinels alive name the server as the primary.
func (s *Sentinels) named(server *Server) bool {
	for _, w := range s.Watchers {
		if !w.exited() && s.primaryOf(w) != server.Addr {
			return false
		}
	}
	return true
}

// AwaitWhole waits until the sentinels know of each other and of the replica, and this one follows its primary.
func (s *Sentinels) AwaitWhole() {
	s.t.Helper()
	await(s.t, "the sentinels to know everyone", func() bool {
		for _, w := range s.Watchers {
			state, err := w.client.Do(context.Background(), "sentinel", "master", SentinelMaster).Slice()
			text := fmt.Sprint(state...)
			if err != nil || !strings.Contains(text, "num-slaves1") || !strings.Contains(text, "num-other-sentinels2") ||
				!strings.Contains(text, "flagsmaster") || strings.Contains(text, "flagsmaster,") {
				return false
			}
		}
		replica := s.Other(s.Primary())
		info, _ := replica.client.Info(context.Background(), "replication").Result() // "" is not up
		return strings.Contains(info, "master_link_status:up")
	})
}

func (s *Sentinels) primaryOf(watcher *Server) string {
	addr, _ := watcher.client.Do(context.Background(), "sentinel", "get-master-addr-by-name", SentinelMaster).StringSlice()
	return strings.Join(addr, ":") // "" of a sentinel that does not answer
}

func (s *Sentinels) watcher() *Server {
	s.t.Helper()
	return find(s.t, "sentinel that is alive", s.Watchers, func(w *Server) bool { return !w.exited() })
}
