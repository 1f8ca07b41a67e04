// Package redisserver runs real redis-servers for measurements and reads what they count.
package redisserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/bench/internal/process"
)

// Server is a redis-server on a free port of loopback, without persistence.
type Server struct {
	// Addr is host:port.
	Addr    string
	process *process.Process
	control *redis.Client // for INFO and FLUSHALL alone; measured traffic has connections of its own
	dir     string
}

// Start starts a server and waits until it answers. cpus pins it, see process.Spec.
func Start(ctx context.Context, cpus string) (_ *Server, err error) {
	dir, err := os.MkdirTemp("", "velocity-bench-redis-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Addr, err = process.FreeAddr(); err != nil {
		return nil, err
	}
	s.process, err = process.Start(process.Spec{
		Path: "redis-server",
		Args: []string{
			"--port", process.SplitPort(s.Addr), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir,
		},
		LogPath: filepath.Join(dir, "redis.log"),
		CPUs:    cpus,
	})
	if err != nil {
		return nil, fmt.Errorf("%w (the benchmark needs a real Redis: apt-get install redis-server)", err)
	}
	s.control = redis.NewClient(&redis.Options{Addr: s.Addr, PoolSize: 1, DisableIdentity: true})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s, s.process.WaitReady(ctx, func() error { return s.control.Ping(ctx).Err() })
}

// Close stops the server and removes its files.
func (s *Server) Close() error {
	var errs []error
	if s.control != nil {
		errs = append(errs, s.control.Close())
	}
	if s.process != nil {
		errs = append(errs, s.process.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// Flush empties the server before the next measurement. Scripts stay loaded.
func (s *Server) Flush(ctx context.Context) error { return s.control.FlushAll(ctx).Err() }

// Version is what INFO says.
func (s *Server) Version(ctx context.Context) (string, error) {
	info, err := s.info(ctx, "server")
	return info["redis_version"], err
}

// Counters are a server's running totals.
type Counters struct {
	// CPU is the time of all its threads.
	CPU time.Duration
	// Commands counts every command, those that scripts call too.
	Commands int64
	// Scripts counts EVAL, EVALSHA and their kin: each runs one script.
	Scripts int64
}

// Sub returns what was counted from d to c.
func (c Counters) Sub(d Counters) Counters {
	return Counters{c.CPU - d.CPU, c.Commands - d.Commands, c.Scripts - d.Scripts}
}

// Add returns the sum over two servers.
func (c Counters) Add(d Counters) Counters {
	return Counters{c.CPU + d.CPU, c.Commands + d.Commands, c.Scripts + d.Scripts}
}

// Counters reads the totals. What the reading itself costs is not counted as commands.
func (s *Server) Counters(ctx context.Context) (Counters, error) {
	info, err := s.info(ctx, "commandstats")
	if err != nil {
		return Counters{}, err
	}
	c, err := countCommands(info)
	if err != nil {
		return Counters{}, err
	}
	c.CPU, err = process.CPUTime(s.process.Pid())
	return c, err
}

func countCommands(info map[string]string) (Counters, error) {
	var c Counters
	for name, stat := range info {
		command, isCommand := strings.CutPrefix(name, "cmdstat_")
		if !isCommand || command == "info" {
			continue
		}
		calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			return Counters{}, fmt.Errorf("INFO commandstats, %s: %w", command, err)
		}
		c.Commands += n
		switch command {
		case "eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro":
			c.Scripts += n
		}
	}
	return c, nil
}

// Memory returns the bytes that the server has allocated and the keys it holds.
func (s *Server) Memory(ctx context.Context) (bytes, keys int64, err error) {
	info, err := s.info(ctx, "memory")
	if err != nil {
		return 0, 0, err
	}
	if bytes, err = strconv.ParseInt(info["used_memory"], 10, 64); err != nil {
		return 0, 0, fmt.Errorf("INFO memory: %w", err)
	}
	keys, err = s.control.DBSize(ctx).Result()
	return bytes, keys, err
}

func (s *Server) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.control.Info(ctx, section).Result()
	if err != nil {
		return nil, fmt.Errorf("INFO %s: %w", section, err)
	}
	info := make(map[string]string)
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), ":"); found {
			info[name] = value
		}
	}
	return info, nil
}
