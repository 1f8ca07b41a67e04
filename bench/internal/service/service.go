package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/process"
	"github.com/velocity-limiter/velocity/bench/internal/replay"
)

// Service is a running service.
type Service struct {
	// Addr is where it decides.
	Addr string
	// Admin is where Velocity's admin plane listens; empty for the others.
	Admin   string
	process *process.Process
}

// ErrNoProfile says that a service serves no profiles of itself.
var ErrNoProfile = errors.New("the service has no profiles")

// Profile has the service record its own CPU time for so long, and returns the profile, for go tool pprof.
func (s *Service) Profile(ctx context.Context, length time.Duration) ([]byte, error) {
	if s.Admin == "" {
		return nil, ErrNoProfile
	}
	seconds := strconv.Itoa(max(1, int(length/time.Second)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Admin+"/debug/pprof/profile?seconds="+seconds, nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("profile: %s: %.200s", r.Status, body)
	}
	return body, nil
}

// CPUTime that it has used.
func (s *Service) CPUTime() (time.Duration, error) { return process.CPUTime(s.process.Pid()) }

// Stop ends it.
func (s *Service) Stop() error { return s.process.Stop() }

// startTimeout bounds the time until a service answers.
const startTimeout = 15 * time.Second

// start starts a program and waits until the URL health answers 200; without health, until addr accepts connections.
func start(ctx context.Context, spec process.Spec, addr, health string) (*Service, error) {
	p, err := process.Start(spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.WaitReady(ctx, func() error { return ready(ctx, addr, health) }); err != nil {
		_ = p.Stop() // the error that matters is why it did not become ready
		return nil, err
	}
	return &Service{Addr: addr, process: p}, nil
}

func ready(ctx context.Context, addr, health string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	_ = conn.Close() // only the connecting was tested
	if health == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, health, nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = r.Body.Close() // the status says it all
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", health, r.Status)
	}
	return nil
}

// logPath is a file for one start of a service.
func (b *Binaries) logPath(name string) string {
	return filepath.Join(b.dir, fmt.Sprintf("%s-%d.log", name, b.starts.Add(1)))
}

// StartVelocity starts the product's binary with its defaults and env, keyed by the header X-Client-ID.
func (b *Binaries) StartVelocity(ctx context.Context, env ...string) (*Service, error) {
	return b.startVelocity(ctx, append([]string{"VELOCITY_CLIENT_KEY=header:X-Client-ID"}, env...))
}

func (b *Binaries) startVelocity(ctx context.Context, env []string) (*Service, error) {
	addr, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, process.Spec{
		Path:    b.Velocity,
		Env:     append([]string{"VELOCITY_HTTP_ADDR=" + addr, "VELOCITY_ADMIN_ADDR=" + admin}, env...),
		LogPath: b.logPath("velocity"),
	}, addr, "http://"+admin+"/readyz")
	if err != nil {
		return nil, err
	}
	s.Admin = admin
	return s, nil
}

// StartVelocityWith starts the product's binary with a policy file, which is written first.
func (b *Binaries) StartVelocityWith(ctx context.Context, policies string, env ...string) (*Service, error) {
	file := filepath.Join(b.dir, fmt.Sprintf("policies-%d.yaml", b.starts.Load()))
	if err := os.WriteFile(file, []byte(policies), 0o600); err != nil {
		return nil, err
	}
	return b.startVelocity(ctx, append([]string{"VELOCITY_POLICY_FILE=" + file}, env...))
}

// StartBareFiber starts the handler on Fiber that decides nothing and sends these answers.
func (b *Binaries) StartBareFiber(ctx context.Context, answers []replay.Answer) (*Service, error) {
	return b.startBare(ctx, b.BareFiber, answers)
}

// StartBareHTTP starts the handler on net/http that decides nothing and sends these answers.
func (b *Binaries) StartBareHTTP(ctx context.Context, answers []replay.Answer) (*Service, error) {
	return b.startBare(ctx, b.BareHTTP, answers)
}

func (b *Binaries) startBare(ctx context.Context, path string, answers []replay.Answer) (*Service, error) {
	addr, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(answers)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "answers.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	return start(ctx, process.Spec{
		Path: path, Args: []string{"-addr", addr, "-answers", file}, LogPath: b.logPath(filepath.Base(path)),
	}, addr, "")
}

// StartBareProxy starts the proxy that decides nothing in front of a server.
func (b *Binaries) StartBareProxy(ctx context.Context, upstream string) (*Service, error) {
	addr, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	return start(ctx, process.Spec{
		Path: b.BareProxy, Args: []string{"-addr", addr, "-upstream", upstream}, LogPath: b.logPath("bareproxy"),
	}, addr, "")
}

// StartCaddy starts Caddy's reverse_proxy in front of a server. It logs no requests. It keeps as many connections to the
// server as it needs: by default it keeps 32.
func (b *Binaries) StartCaddy(ctx context.Context, upstream string) (*Service, error) {
	addr, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "caddy.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, caddyConfig, addr, upstream), 0o600); err != nil {
		return nil, err
	}
	return start(ctx, process.Spec{
		Path: b.Caddy, Args: []string{"run", "--config", file}, Env: []string{"HOME=" + b.dir}, LogPath: b.logPath("caddy"),
	}, addr, "")
}

const caddyConfig = `{
  "admin": {"disabled": true, "config": {"persist": false}},
  "apps": {"http": {"servers": {"proxy": {
    "listen": [%q],
    "automatic_https": {"disable": true},
    "routes": [{"handle": [{
      "handler": "reverse_proxy",
      "upstreams": [{"dial": %q}],
      "transport": {"protocol": "http", "compression": false, "keep_alive": {"max_idle_conns_per_host": 4096}}
    }]}]
  }}}}
}
`

// StartVelocityForEnvoy starts the product's binary with its gRPC interface, which is the service's address, and rules in the
// words of envoyproxy/ratelimit; empty: those that StartEnvoyRatelimit configures.
func (b *Binaries) StartVelocityForEnvoy(ctx context.Context, rules string, env ...string) (*Service, error) {
	addr, err := process.FreeAddr()
	if err != nil {
		return nil, err
	}
	file, err := b.writeRules(rules)
	if err != nil {
		return nil, err
	}
	s, err := b.StartVelocity(ctx, append([]string{"VELOCITY_GRPC_ADDR=" + addr, "VELOCITY_ENVOY_CONFIG=" + file}, env...)...)
	if err != nil {
		return nil, err
	}
	s.Addr = addr
	return s, nil
}

// writeRules puts rules into a folder of their own, in which envoyproxy/ratelimit finds them.
func (b *Binaries) writeRules(rules string) (file string, err error) {
	if rules == "" {
		rules = envoyConfig
	}
	root, err := os.MkdirTemp(b.dir, "envoy-")
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, "ratelimit", "config")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	file = filepath.Join(folder, "bench.yaml")
	return file, os.WriteFile(file, []byte(rules), 0o600)
}

// EnvoyDomain and the keys of the descriptors that StartEnvoyRatelimit configures. A client is a descriptor's value.
const (
	EnvoyDomain    = "bench"
	EnvoyPerSecond = "per_second" // 5 a second: it knows no bucket of 10
	EnvoyFlooded   = "flooded"    // 10 an hour
	EnvoyWide      = "wide"       // 50 a day
	EnvoyNarrow    = "narrow"     // 1 a day
	EnvoyEndless   = "endless"    // 100,000,000 a second
)

const envoyConfig = `domain: bench
descriptors:
  - { key: per_second, rate_limit: { unit: second, requests_per_unit: 5 } }
  - { key: flooded, rate_limit: { unit: hour, requests_per_unit: 10 } }
  - { key: wide, rate_limit: { unit: day, requests_per_unit: 50 } }
  - { key: narrow, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: endless, rate_limit: { unit: second, requests_per_unit: 100000000 } }
`

// EnvoyOptions are the settings in which the measurements differ. Zero: its defaults.
type EnvoyOptions struct {
	// CacheBytes is the size of its local cache of keys that are over their limit; 0: none.
	CacheBytes int
	// GatherWrites is how long it gathers commands to Redis before it sends them; 0: not.
	GatherWrites time.Duration
	// Rules are its configuration; empty: that of the keys above.
	Rules string
}

// StartEnvoyRatelimit starts envoyproxy/ratelimit on a Redis server. Statistics are off and only errors are logged: the
// cheapest that it runs.
func (b *Binaries) StartEnvoyRatelimit(ctx context.Context, redisAddr string, o EnvoyOptions) (*Service, error) {
	file, err := b.writeRules(o.Rules)
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	var addrs [3]string
	for i := range addrs {
		if addrs[i], err = process.FreeAddr(); err != nil {
			return nil, err
		}
	}
	grpc, web, debug := addrs[0], addrs[1], addrs[2]
	return start(ctx, process.Spec{
		Path: b.EnvoyRatelimit,
		Env: []string{
			"GRPC_HOST=127.0.0.1", "GRPC_PORT=" + process.SplitPort(grpc),
			"HOST=127.0.0.1", "PORT=" + process.SplitPort(web),
			"DEBUG_HOST=127.0.0.1", "DEBUG_PORT=" + process.SplitPort(debug),
			"USE_STATSD=false", "DISABLE_STATS=true", "LOG_LEVEL=error",
			"BACKEND_TYPE=redis", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + redisAddr,
			"RUNTIME_ROOT=" + root, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false",
			"LOCAL_CACHE_SIZE_IN_BYTES=" + strconv.Itoa(o.CacheBytes),
			"REDIS_PIPELINE_WINDOW=" + o.GatherWrites.String(),
		},
		LogPath: b.logPath("envoyratelimit"),
	}, grpc, "http://"+web+"/healthcheck")
}
