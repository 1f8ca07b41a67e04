package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/cli/command"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const overridden = `
shared:
  - { name: tenant, key: header:X-Tenant, quota: 1000/day }
policies:
  - name: search
    key: header:X-Client-ID
    limits: [ { name: burst, rate: 5/s, capacity: 10 }, { use: tenant } ]
  - { name: default, limits: [ { rate: 5/s, capacity: 10 } ] }
`

// memoryOverrides are those of one process, in a map. They know the policies search, default and shared/tenant.
type memoryOverrides struct {
	mu    sync.Mutex
	all   map[ports.ClientID]ports.Override
	sets  int
	fails func(id ports.ClientID, sets int) error // nil: nothing fails
	local bool
	// policies are those of the service; "": overridden.
	policies string
	expired  []string // owners whose last override has just expired
	stuck    bool     // the cursor of the next page is always the same
}

func (m *memoryOverrides) check(id ports.ClientID) error {
	if !slices.Contains([]string{"search", "default", "shared/tenant"}, id.Policy) {
		return ports.ErrUnknownPolicy
	}
	return nil
}

func (m *memoryOverrides) Override(_ context.Context, id ports.ClientID) (ports.Override, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.all[id]
	if !ok {
		return found, cmp.Or(m.check(id), ports.ErrNoOverride)
	}
	return found, nil
}

func (m *memoryOverrides) SetOverride(_ context.Context, id ports.ClientID, o ports.Override) (*ports.Override, ports.Override, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets++
	if m.fails != nil {
		if err := m.fails(id, m.sets); err != nil {
			return nil, ports.Override{}, err
		}
	}
	if err := m.check(id); err != nil {
		return nil, ports.Override{}, err
	}
	o.Key, o.Source, o.SetAt = id.Key, id.Source, time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC)
	m.all[id] = o
	return nil, o, nil
}

func (m *memoryOverrides) EndOverride(ctx context.Context, id ports.ClientID) (ports.Override, error) {
	before, err := m.Override(ctx, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, id)
	return before, err
}

func (m *memoryOverrides) ListOverrides(_ context.Context, policyName, after string, limit int) (page []ports.Override, next string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, o := range m.all {
		if id.Policy == policyName && o.Key > after {
			page = append(page, o)
		}
	}
	slices.SortFunc(page, func(a, b ports.Override) int { return cmp.Compare(a.Key, b.Key) })
	if len(page) > limit {
		page = page[:limit]
		next = page[limit-1].Key
	}
	if m.stuck {
		next = "here"
	}
	if len(page) == 0 { // those of a policy that is gone are listed, too
		err = m.check(ports.ClientID{Policy: policyName})
	}
	return page, next, err
}

func (m *memoryOverrides) OverridesStatus() ports.OverridesStatus {
	return ports.OverridesStatus{Known: true, Local: m.local}
}

func (m *memoryOverrides) Overridden() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var owners []string
	for id := range m.all {
		owners = append(owners, id.Policy)
	}
	slices.Sort(owners)
	return slices.Compact(append(owners, m.expired...))
}

// overridesOf starts an admin plane with these overrides, for the commands of the test.
func overridesOf(t *testing.T, m *memoryOverrides) *memoryOverrides {
	t.Helper()
	m.all = map[ports.ClientID]ports.Override{}
	hasher, err := clientkey.NewHasher([]byte("0123456789abcdef"))
	require.NoError(t, err)
	set, err := policyfile.Parse([]byte(cmp.Or(m.policies, overridden)), "", policyfile.WithKeySecret(hasher))
	require.NoError(t, err)
	a, err := admin.New(admin.Config{Addr: "127.0.0.1:0"}, nil, nil, admin.ServiceState{}, zap.NewNop(),
		admin.WithPolicies(set.All), admin.WithOverrides(m))
	require.NoError(t, err)
	ln, err := a.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- a.Serve(ln) }()
	t.Cleanup(func() {
		assert.NoError(t, a.Shutdown(context.WithoutCancel(t.Context())))
		assert.NoError(t, <-served)
	})
	t.Setenv("VELOCITY_ADMIN_ADDR", ln.Addr().String())
	t.Setenv("VELOCITY_ADMIN_TOKEN", "")
	return m
}

// overrideCommand runs velocity override, requires the exit code, and returns what it prints: the errors last.
func overrideCommand(t *testing.T, code int, in string, args ...string) string {
	t.Helper()
	var out, errs strings.Builder
	got := Override.Execute(t.Context(), args, command.Streams{In: strings.NewReader(in), Out: &out, Err: &errs})
	require.Equal(t, code, got, "%s%s", &out, &errs)
	return out.String() + errs.String()
}

func TestOverride_setGetListAndDelete(t *testing.T) {
	overridesOf(t, &memoryOverrides{})
	got := overrideCommand(t, 0, "", "set", "-policy", "search", "-limit", "name: burst, rate: 50/s, capacity: 100",
		"-limit", "{name: daily, quota: 50000/month, zone: Europe/Berlin, cost: 2}", "-expires", "2127-01-31T00:00:00Z", "-note", "ticket\x1b 123", "a/b c")
	const text = "burst: rate 50/s, capacity 100; daily: quota 50000/month, zone Europe/Berlin, cost 2"
	assert.Equal(t, "Set: a/b c under search: "+text+"; until 2127-01-31T00:00:00Z; note: ticket\\x1b 123\n", got)
	assert.Equal(t, strings.TrimPrefix(got, "Set: "), overrideCommand(t, 0, "", "get", "-policy", "search", "a/b c"))
	assert.JSONEq(t, `{"key":"a/b c","limits":[{"name":"burst","rate":"50/s","capacity":100},
		{"name":"daily","quota":"50000/month","zone":"Europe/Berlin","cost":2}],"expires_at":"2127-01-31T00:00:00Z",
		"note":"ticket\u001b 123","set_at":"2026-11-28T23:00:00Z"}`, overrideCommand(t, 0, "", "get", "-json", "-policy", "search", "a/b c"))

	assert.Equal(t, "Set: acme under shared/tenant: blocked\n", overrideCommand(t, 0, "", "set", "-block", "-policy", "shared/tenant", "acme"))
	assert.Equal(t, "Set: 192.0.2.7 under search: exempt\n", overrideCommand(t, 0, "", "set", "192.0.2.7", "-source", "ip", "-exempt", "-policy", "search"))
	assert.Equal(t, `CLIENT             OVERRIDE                                                                              ENDS                  NOTE              SET
192.0.2.7 (by ip)  exempt                                                                                -                     -                 2026-11-28T23:00:00Z
a/b c              `+text+`  2127-01-31T00:00:00Z  "ticket\x1b 123"  2026-11-28T23:00:00Z
`, overrideCommand(t, 0, "", "list", "-policy", "search"))
	all := overrideCommand(t, 0, "", "list")
	assert.Contains(t, all, "POLICY         CLIENT             OVERRIDE ")
	assert.Contains(t, all, "\nsearch         192.0.2.7 (by ip)  exempt ")
	assert.Contains(t, all, "\nshared/tenant  acme               blocked ")
	assert.Equal(t, "No client of default has an override.\n", overrideCommand(t, 0, "", "list", "-policy", "default"))

	assert.Equal(t, "Ended: acme has the limits of shared/tenant again.\n", overrideCommand(t, 0, "", "delete", "-policy", "shared/tenant", "acme"))
	assert.Equal(t, "velocity: this client has no override\n", overrideCommand(t, 1, "", "delete", "-policy", "shared/tenant", "acme"))
	assert.Equal(t, "velocity: this client has no override\n", overrideCommand(t, 1, "", "get", "-policy", "search", "192.0.2.7"), "by another key")
	assert.JSONEq(t, `{"ended":true}`, overrideCommand(t, 0, "", "delete", "-json", "-source", "ip", "-policy", "search", "192.0.2.7"))
	overrideCommand(t, 0, "", "delete", "-policy", "search", "a/b c")
	assert.Equal(t, "No client has an override.\n", overrideCommand(t, 0, "", "list"))
}

func TestOverride_namesNoSecret(t *testing.T) {
	secret := strings.Replace(overridden, "key: header:X-Client-ID", "key: { from: header:X-Client-ID, secret: true }", 1)
	m := overridesOf(t, &memoryOverrides{policies: secret})
	listed := "hmac:" + strings.Repeat("0", 64)
	for key, named := range map[string]string{"sk_live_raw": "the client", listed: listed} {
		m.all[ports.ClientID{Policy: "search", Key: key}] = ports.Override{Key: listed, Block: true}
		assert.Equal(t, "Ended: "+named+" has the limits of search again.\n", overrideCommand(t, 0, "", "delete", "-policy", "search", key))
		assert.Contains(t, overrideCommand(t, 1, `{"policy":"search","key":"`+key+`"}`, "apply", "-"), "standard input:1: "+named+" of search: limits: ")
	}
}

// The URL of a request names the client.
func TestOverride_namesNoSecretIfTheServiceHangsUp(t *testing.T) {
	hangsUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer hangsUp.Close()
	t.Setenv("VELOCITY_ADMIN_ADDR", hangsUp.Listener.Addr().String())
	for _, args := range []string{"get sk_live_raw", "delete sk_live_raw", "set -block sk_live_raw"} {
		assert.Equal(t, "velocity: "+hangsUp.URL+": EOF\n", overrideCommand(t, 1, "", strings.Fields(args)...))
	}
}

// A later policy file may have no such limit any more.
func TestOverride_showsWhatIsIgnored(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{})
	m.all[ports.ClientID{Policy: "default", Key: "alice"}] = ports.Override{
		Key: "alice", Limits: []limitspec.Spec{{Name: "gone", Cost: 2}}, Unfit: errors.New("limits.gone: is no limit of default"),
	}
	assert.Equal(t, "alice under default: gone: cost 2; ignored: limits.gone: is no limit of default\n", overrideCommand(t, 0, "", "get", "alice"))
	assert.Contains(t, overrideCommand(t, 0, "", "list"), "  gone: cost 2 (ignored: limits.gone: is no limit of default)  ")
	assert.JSONEq(t, `{"policy":"default","key":"alice","limits":[{"name":"gone","cost":2}]}`, overrideCommand(t, 0, "", "export"))
}

func TestOverride_expiresAfterADuration(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{local: true})
	got := overrideCommand(t, 0, "", "set", "-exempt", "-expires", "24h", "alice")
	assert.Contains(t, got, "In this process's memory: other processes do not have it, and it ends with this one.\n")
	at := m.all[ports.ClientID{Policy: "default", Key: "alice"}].ExpiresAt
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), at, time.Minute)
	assert.Zero(t, at.Nanosecond())
}

func TestOverride_saysWhatIsWrong(t *testing.T) {
	overridesOf(t, &memoryOverrides{})
	for args, want := range map[string]string{
		"":                           "velocity override: say what to do: set, get, delete, list, apply, export; see velocity override -h\n",
		"put alice":                  "velocity override: \"put\": must be one of set, get, delete, list, apply, export; see velocity override -h\n",
		"set alice":                  "velocity override: say -limit, or -exempt, or -block, and only one of them; see velocity override -h\n",
		"set -exempt -block alice":   "velocity override: say -limit, or -exempt, or -block, and only one of them; see velocity override -h\n",
		"set -exempt":                "velocity override: one client must be named; under a key of global, any word names it; see velocity override -h\n",
		"set -exempt -expires 1 a":   "velocity override: -expires: \"1\": must be a duration of at least 1s, as in 24h, or a time, as in 2027-01-31T00:00:00Z; see velocity override -h\n",
		"set -exempt -expires -1h a": "velocity override: -expires: \"-1h\": must be a duration of at least 1s, as in 24h, or a time, as in 2027-01-31T00:00:00Z; see velocity override -h\n",
		"set -limit quota:5/day a":   "velocity override: invalid value \"quota:5/day\" for flag -limit: name: is missing: the name of the limit that is overridden; see velocity override -h\n",
		"get -note x alice":          "velocity override: get has no flag -note; see velocity override -h\n",
		"list -source ip":            "velocity override: list has no flag -source; see velocity override -h\n",
		"list alice":                 "velocity override: unknown argument \"alice\"; see velocity override -h\n",
		"apply":                      "velocity override: one file must be named; - is standard input; see velocity override -h\n",
		"apply -policy search f":     "velocity override: apply has no flag -policy; see velocity override -h\n",
	} {
		assert.Equal(t, want, overrideCommand(t, 2, "", strings.Fields(args)...), args)
	}
	for args, want := range map[string]string{
		"get -policy other alice":                         "velocity: -policy: \"other\": there is no policy of this name: the service has search, default, shared/tenant\n",
		"set -exempt -policy other alice":                 "velocity: -policy: \"other\": there is no policy of this name: the service has search, default, shared/tenant\n",
		"list -policy other":                              "velocity: -policy: \"other\": there is no policy of this name: the service has search, default, shared/tenant\n",
		"export -policy other":                            "velocity: -policy: \"other\": there is no policy of this name: the service has search, default, shared/tenant\n",
		"get alice":                                       "velocity: this client has no override\n",
		"set -exempt -expires 2020-01-31T00:00:00Z alice": "velocity: expires_at: has passed\n",
		"apply /no/such/file":                             "velocity: open /no/such/file: no such file or directory\n",
	} {
		assert.Equal(t, want, overrideCommand(t, 1, "", strings.Fields(args)...), args)
	}
}

func TestOverride_exportAndApplyAreInverse(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{})
	var file strings.Builder
	const n = 2500 // three pages
	for i := range n {
		_, _ = fmt.Fprintf(&file, `{"policy":"search","key":"client-%04d","limits":[{"name":"burst","rate":"%d/s"}],"note":"n \"%[2]d\""}`+"\n", i, i+1)
	}
	_, _ = file.WriteString(`{"policy":"default","key":"192.0.2.7","block":true,"expires_at":"2127-01-31T00:00:00Z"}` + "\n")
	_, _ = file.WriteString(`{"policy":"shared/tenant","key":"a/b c","source":"ip","exempt":true}` + "\n")
	path := filepath.Join(t.TempDir(), "overrides.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(file.String()), 0o600))

	assert.Equal(t, "Set 2502 overrides.\n", overrideCommand(t, 0, "", "apply", path))
	assert.Len(t, m.all, n+2)
	exported := overrideCommand(t, 0, "", "export")
	assert.Equal(t, file.String(), exported, "policies in their order, then shared limits; without set_at")
	clear(m.all)
	assert.JSONEq(t, `{"set":2502,"failed":0}`, overrideCommand(t, 0, exported, "apply", "-json", "-"))
	assert.Equal(t, exported, overrideCommand(t, 0, "", "export"))
	assert.Equal(t, 2500, strings.Count(overrideCommand(t, 0, "", "export", "-policy", "search"), "\n"))
	assert.Equal(t, overrideCommand(t, 0, "", "export", "-policy", "search"), overrideCommand(t, 0, "", "list", "-json", "-policy", "search"))
}

func TestOverride_listsThoseOfPoliciesThatAreGone(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{expired: []string{"old"}})
	for _, policyName := range []string{"gone", "search", "shared/unused"} {
		m.all[ports.ClientID{Policy: policyName, Key: "a"}] = ports.Override{Key: "a", Block: true}
	}
	want := ""
	for _, policyName := range []string{"search", "gone", "shared/unused"} {
		want += `{"policy":"` + policyName + `","key":"a","block":true}` + "\n"
	}
	assert.Equal(t, want, overrideCommand(t, 0, "", "export"))
	assert.Contains(t, overrideCommand(t, 0, "", "list"), "\nshared/unused  a       blocked ")
}

func TestOverrideExport_endsIfThePagesDoNot(t *testing.T) {
	overridesOf(t, &memoryOverrides{stuck: true})
	assert.Contains(t, overrideCommand(t, 1, "", "export", "-policy", "search"), "&after=here: the next page is this page again\n")
}

func TestOverrideApply_goesOnAfterALineThatFails(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{})
	got := overrideCommand(t, 1, `{"policy":"search","key":"a","exempt":true}

{"policy":"search","key":"b"}
no json
{"policy":"search","key":"c","exempt":true,"set_at":"2026-11-28T23:00:00Z"}
{"policy":"search","policy":"search","key":"d","exempt":true}
{"policy":"search","exempt":true}
{"key":"e","exempt":true}
{"policy":"other","key":"f\u001b","exempt":true}
{"policy":"search","key":"g","exempt":true,"burst":1}
  {"policy":"search","key":"h","block":true}`, "apply", "-")
	lines := strings.Split(strings.TrimSpace(got), "\n")
	assert.Equal(t, "Set 3 overrides.", lines[0])
	slices.Sort(lines[1:8])
	assert.Equal(t, []string{
		`standard input:10: g of search: burst: is not a known field`,
		`standard input:3: b of search: limits: there is none: an override has limits, or exempt, or block`,
		`standard input:4: is not JSON at byte 1`,
		`standard input:6: policy: is repeated`,
		`standard input:7: key: is missing`,
		`standard input:8: policy: is missing`,
		`standard input:9: "f\x1b" of other: policy: there is no policy of this name`,
		`velocity: 7 of 10 lines failed: mend them and apply the file again`,
	}, lines[1:])
	assert.Len(t, m.all, 3)

	got = overrideCommand(t, 1, `{"policy":"other","key":"a","exempt":true}
[]
{"policy":"search","key":5}
{"policy":"search"`, "apply", "-")
	assert.Equal(t, []string{
		"Set 0 overrides.", "standard input:1: a of other: policy: there is no policy of this name", "standard input:2: must be a JSON object",
		"standard input:3: key: must be a text", "standard input:4: is not JSON: it ends too early",
	}, strings.Split(got, "\n")[:5], "by line")
	got = overrideCommand(t, 1, strings.Repeat("{}\n", 50), "apply", "-")
	assert.Equal(t, 20, strings.Count(got, "policy: is missing"))
	assert.Contains(t, got, "\nand 30 more errors\n")
	assert.Contains(t, overrideCommand(t, 1, strings.Repeat("x", 200<<10), "apply", "-"), "velocity: standard input:1: ")
}

// The last line about a client counts, though lines are sent at the same time.
func TestOverrideApply_keepsTheOrderOfOneClient(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{})
	var file strings.Builder
	for i := range 400 {
		_, _ = fmt.Fprintf(&file, `{"policy":"search","key":"client-%d","exempt":true,"note":"%d"}`+"\n", i%4, i)
	}
	assert.Equal(t, "Set 400 overrides.\n", overrideCommand(t, 0, file.String(), "apply", "-"))
	for i := range 4 {
		assert.Equal(t, fmt.Sprint(396+i), m.all[ports.ClientID{Policy: "search", Key: fmt.Sprintf("client-%d", i)}].Note)
	}
}

func TestOverrideApply_sendsAgainWhileTheStoreDoesNotAnswer(t *testing.T) {
	m := overridesOf(t, &memoryOverrides{fails: func(_ ports.ClientID, sets int) error {
		if sets == 1 {
			return ports.ErrUnavailable
		}
		return nil
	}})
	assert.Equal(t, "Set 1 override.\n", overrideCommand(t, 0, `{"policy":"search","key":"a","exempt":true}`, "apply", "-"))
	assert.Equal(t, 2, m.sets)
	m.fails = func(id ports.ClientID, _ int) error {
		return &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "limits." + id.Key, Reason: "is not a limit of search"}
	}
	assert.Contains(t, overrideCommand(t, 1, `{"policy":"search","key":"a","exempt":true}`, "apply", "-"),
		"standard input:1: a of search: limits.a: is not a limit of search\n")
}

func TestOverrideApply_endsIfEveryLineWouldFail(t *testing.T) {
	overridesOf(t, &memoryOverrides{})
	t.Setenv("VELOCITY_ADMIN_ADDR", "127.0.0.1:1")
	file := strings.Repeat(`{"policy":"search","key":"a","exempt":true}`+"\n", 100_000)
	got := overrideCommand(t, 1, file, "apply", "-")
	assert.Equal(t, "Set 0 overrides.\nvelocity: nothing listens at http://127.0.0.1:1: the admin plane's address is -addr, else VELOCITY_ADMIN_ADDR\n", got)
}

func TestBucketReport_showsTheOverride(t *testing.T) {
	var r bucketReport
	require.NoError(t, json.Unmarshal([]byte(`{"policy":"search","source":"ip","key":"192.0.2.7","store":"redis","now":"2030-01-02T03:04:05Z","limits":[],
		"override":{"limits":[{"name":"burst","cost":2}],"note":"n","set_at":"2026-11-28T23:00:00Z"}}`), &r))
	var out strings.Builder
	r.print(&out)
	assert.True(t, strings.HasPrefix(out.String(), "192.0.2.7 under search, by ip, in redis\noverride: burst: cost 2; note: n\n"), out.String())
}
