package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// SentinelMaster is the name of the primary in every Sentinels.
const SentinelMaster = "main"

// Sentinels are a primary, its replica, and three sentinels that watch them. They belong to the test that started them.
type Sentinels struct {
	// Servers are the primary and its replica, as they were at the start.
	Servers []*Server
	// Watchers are the sentinels. Two of them must agree that the primary is down.
	Watchers []*Server

	t       testing.TB
	clients map[*Server]*redis.Client
}

// StartSentinel starts a primary, a replica and three sentinels, and returns when these know of each other. A primary
// that is silent for a second is replaced. The options are the replica's.
func StartSentinel(t testing.TB, ofReplica ...Option) *Sentinels {
	t.Helper()
	s := &Sentinels{t: t, clients: make(map[*Server]*redis.Client)}
	diskless := Args("--repl-diskless-sync-delay", "0")
	primary := Start(t, diskless)
	following := Args("--replicaof", hostOf(primary.Addr), fmt.Sprint(primary.port))
	replica := Start(t, append([]Option{diskless, following}, ofReplica...)...)
	s.Servers = []*Server{primary, replica}
	for range 3 {
		s.Watchers = append(s.Watchers, Start(t, watching(primary)))
	}
	for _, server := range append(s.Servers, s.Watchers...) {
		client := newClient(server.Addr)
		t.Cleanup(func() { _ = client.Close() })
		s.clients[server] = client
	}
	for _, w := range s.Watchers {
		// By default the sentinels look at the servers every 10 s, and at each other every 2 s.
		if err := s.clients[w].Do(t.Context(), "sentinel", "debug", "info-period", 200, "publish-period", 200).Err(); err != nil {
			t.Fatalf("SENTINEL DEBUG: %v", err)
		}
	}
	s.AwaitWhole()
	return s
}

// watching makes a server a sentinel. Sentinels keep what they learn in their configuration file.
func watching(primary *Server) Option {
	return func(s *Server) {
		s.t.Helper()
		s.config = filepath.Join(s.Dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s 1000\n"+
			"sentinel failover-timeout %[1]s 5000\n", SentinelMaster, primary.port)
		if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
			s.t.Fatalf("a sentinel's configuration: %v", err)
		}
		s.args = append(s.args, "--sentinel")
	}
}

// Addrs are the addresses of the sentinels.
func (s *Sentinels) Addrs() []string {
	var addrs []string
	for _, w := range s.Watchers {
		addrs = append(addrs, w.Addr)
	}
	return addrs
}

// Client is a client of one server or sentinel.
func (s *Sentinels) Client(server *Server) *redis.Client { return s.clients[server] }

// Primary is the server that the first sentinel alive takes for the primary.
func (s *Sentinels) Primary() *Server {
	s.t.Helper()
	addr := s.primaryOf(s.watcher())
	for _, server := range s.Servers {
		if server.Addr == addr {
			return server
		}
	}
	s.t.Fatalf("%q is no server of these", addr)
	return nil
}

// Other is the server that is not this one.
func (s *Sentinels) Other(server *Server) *Server {
	if server == s.Servers[0] {
		return s.Servers[1]
	}
	return s.Servers[0]
}

// Failover has the sentinels make the replica the primary, and returns it.
func (s *Sentinels) Failover() *Server {
	s.t.Helper()
	next := s.Other(s.Primary())
	if err := s.clients[s.watcher()].Do(context.Background(), "sentinel", "failover", SentinelMaster).Err(); err != nil {
		s.t.Fatalf("SENTINEL FAILOVER: %v", err)
	}
	s.AwaitPrimary(next)
	return next
}

// AwaitPrimary waits until all sentinels alive take the server for the primary.
func (s *Sentinels) AwaitPrimary(server *Server) {
	s.t.Helper()
	await(s.t, "the sentinels to name "+server.Addr, func() bool {
		for _, w := range s.Watchers {
			if !w.exited() && s.primaryOf(w) != server.Addr {
				return false
			}
		}
		return true
	})
}

// AwaitWhole waits until the sentinels know of each other and of the replica, and this one follows its primary.
func (s *Sentinels) AwaitWhole() {
	s.t.Helper()
	await(s.t, "the sentinels to know everyone", func() bool {
		for _, w := range s.Watchers {
			state, err := s.clients[w].Do(context.Background(), "sentinel", "master", SentinelMaster).Slice()
			text := fmt.Sprint(state...)
			if err != nil || !strings.Contains(text, "num-slaves1") || !strings.Contains(text, "num-other-sentinels2") ||
				!strings.Contains(text, "flagsmaster") || strings.Contains(text, "flagsmaster,") {
				return false
			}
		}
		replica := s.Other(s.Primary())
		info, _ := s.clients[replica].Info(context.Background(), "replication").Result() // "" is not up
		return strings.Contains(info, "master_link_status:up")
	})
}

func (s *Sentinels) primaryOf(watcher *Server) string {
	addr, _ := s.clients[watcher].Do(context.Background(), "sentinel", "get-master-addr-by-name", SentinelMaster).StringSlice()
	return strings.Join(addr, ":") // "" of a sentinel that does not answer
}

func (s *Sentinels) watcher() *Server {
	s.t.Helper()
	for _, w := range s.Watchers {
		if !w.exited() {
			return w
		}
	}
	s.t.Fatal("no sentinel is alive")
	return nil
}
