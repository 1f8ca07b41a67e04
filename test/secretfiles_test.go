package test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

const secretReadAgain = "A secret is read again"

// mounted is a Secret as Kubernetes mounts it: name -> ..data/name, and ..data is a link that is swapped.
type mounted struct {
	t         *testing.T
	dir, name string
	version   int
}

func mount(t *testing.T, name, text string) *mounted {
	t.Helper()
	m := &mounted{t: t, dir: t.TempDir(), name: name}
	m.publish(text)
	require.NoError(t, os.Symlink(filepath.Join("..data", name), m.path()))
	return m
}

func (m *mounted) path() string { return filepath.Join(m.dir, m.name) }

func (m *mounted) publish(text string) {
	m.t.Helper()
	m.version++
	version := "..v" + strings.Repeat("i", m.version)
	require.NoError(m.t, os.Mkdir(filepath.Join(m.dir, version), 0o700))
	require.NoError(m.t, os.WriteFile(filepath.Join(m.dir, version, m.name), []byte(text), 0o600))
	require.NoError(m.t, os.Symlink(version, filepath.Join(m.dir, "..next")))
	require.NoError(m.t, os.Rename(filepath.Join(m.dir, "..next"), filepath.Join(m.dir, "..data")))
}

// A password is replaced in Redis and in the file while requests come, and then each connection is cut: it is made again with the
// new password. Only what was asked on that connection may have failed.
func TestSecretFiles_aPasswordOfRedisRotatesUnderLoad(t *testing.T) {
	server := redistest.Start(t, redistest.Args("--user", "limiter", "on", ">old", "~velocity:*", "+@all"))
	admin := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2})
	t.Cleanup(func() { _ = admin.Close() })
	password := mount(t, "redis", "old\n")
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_REDIS_USERNAME": "limiter", "VELOCITY_REDIS_PASSWORD_FILE": password.path(),
		"VELOCITY_RATE": "1000000/s", "VELOCITY_CAPACITY": "1000000", "VELOCITY_ON_STORE_FAILURE": "closed",
		"VELOCITY_TAKE_TIMEOUT": "10s", "VELOCITY_LOG_DECISIONS": "none",
	})
	const workers = 4
	var done atomic.Bool
	var passed, failed atomic.Int64
	var load sync.WaitGroup
	t.Cleanup(func() {
		done.Store(true)
		load.Wait()
	})
	for range workers {
		load.Go(func() {
			for !done.Load() {
				if a, err := p.Do(http.MethodGet, p.URL+"/api/resource", ""); err == nil && a.Status == http.StatusOK {
					passed.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	more := func() {
		t.Helper()
		now := passed.Load()
		require.Eventually(t, func() bool { return passed.Load() > now+100 }, harness.Timeout, harness.Interval)
	}
	more()
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", ">new").Err())
	password.publish("new\n")
	require.Eventually(t, func() bool { return len(p.LogLines(secretReadAgain)) == 1 }, harness.Timeout, harness.Interval)
	more()
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "limiter", "<old").Err())
	more()
	assert.Zero(t, failed.Load(), "no decision is lost while the password changes")

	for i, id := range connectionsOf(t, admin, "limiter") { // the last one is made again with the new password for sure
		_ = admin.Do(t.Context(), "client", "kill", "id", id).Err() // it may have ended by itself
		more()
		assert.LessOrEqual(t, failed.Load(), int64((i+1)*workers), "those of one connection each")
	}
	t.Logf("%d passed, %d failed with a connection that was cut", passed.Load(), failed.Load())
	refused, err := admin.ACLLog(t.Context(), 10).Result()
	require.NoError(t, err)
	assert.Empty(t, refused, "the old password is not used any more")
	done.Store(true)
	load.Wait()
	assert.NotContains(t, p.Stdout.String(), "WRONGPASS")
	p.Stop()
}

// connectionsOf returns the IDs of a user's connections.
func connectionsOf(t *testing.T, admin *redis.Client, user string) []string {
	t.Helper()
	list, err := admin.ClientList(t.Context()).Result()
	require.NoError(t, err)
	var ids []string
	for line := range strings.Lines(list) {
		if strings.Contains(line, " user="+user+" ") {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			ids = append(ids, id)
		}
	}
	require.NotEmpty(t, ids, list)
	return ids
}

func TestSecretFiles_tokensRotate(t *testing.T) {
	tokens := mount(t, "tokens", "alice:one\n")
	p := harness.Start(t, harness.Settings{"VELOCITY_ADMIN_TOKEN_FILE": tokens.path(), "VELOCITY_API_TOKEN_FILE": tokens.path()})
	statuses := func(token string) [2]int {
		header := "Authorization: Bearer " + token
		return [2]int{
			p.MustDo(http.MethodGet, p.Admin+"/v1/policies", "", header).Status,
			p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key": "a"}`, header, "Content-Type: application/json").Status,
		}
	}
	right, wrong := [2]int{200, 200}, [2]int{401, 401}
	assert.Equal(t, right, statuses("one"))
	assert.Equal(t, wrong, statuses("two"))
	tokens.publish("alice:one\nalice:two\n")
	require.Eventually(t, func() bool { return statuses("two") == right }, harness.Timeout, harness.Interval)
	assert.Equal(t, right, statuses("one"))
	tokens.publish("alice:two\n")
	require.Eventually(t, func() bool { return statuses("one") == wrong }, harness.Timeout, harness.Interval)
	assert.Equal(t, right, statuses("two"))

	tokens.publish("alice:\n")
	require.Eventually(t, func() bool { return len(p.LogLines("A secret is not read again: the earlier one stays in force")) == 2 }, harness.Timeout, harness.Interval)
	assert.Equal(t, right, statuses("two"), "a list that is wrong changes nothing")

	tokens.publish("alice:two\n")
	vars := harness.Settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(p.Admin, "http://"), "VELOCITY_ADMIN_TOKEN_FILE": tokens.path()}
	code, stdout, stderr := command(t, vars, "status")
	assert.Zero(t, code, stderr)
	assert.Contains(t, stdout, "ready, version", "commands send the first token")
	p.Stop()
}

func TestTop_addsUpTwoNodes(t *testing.T) {
	a, b := harness.Start(t, harness.Settings{"VELOCITY_CAPACITY": "2", "VELOCITY_RATE": "1/h"}), harness.Start(t, harness.Settings{})
	for range 3 {
		a.Resource()
		b.Resource()
	}
	vars := harness.Settings{"VELOCITY_ADMIN_ADDR": strings.TrimPrefix(a.Admin, "http://") + "," + strings.TrimPrefix(b.Admin, "http://")}
	code, stdout, stderr := command(t, vars, "top", "-by", "requests")
	assert.Zero(t, code, stderr)
	assert.Regexp(t, `(?s)^2 of 2 nodes\. The last \d+ s\n\ndefault: 6 requests, 1 denial\n  CLIENT +REQUESTS\n  127\.0\.0\.1 +6\n$`, stdout)
	b.Stop()
	code, stdout, stderr = command(t, vars, "status", "-json")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "1 of 2 nodes did not answer")
	var sum map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &sum))
	assert.Len(t, sum["nodes"], 2)
	a.Stop()
}
