package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// claims are all rows.
var claims = []row{
	{"R01", "over-admissions by the store, under faults", "0 tokens of >= 10,000,000 decisions", overAdmissions},
	{"R02", "double debits", "0 tokens", doubleDebits},
	{"R03", "false denials without faults", "0 of >= 10,000,000 decisions", falseDenials},
	{"R04", "extra tokens by fallback and data loss / their bound", "<= 1", extraOfBound},
	{"R05", "kinds of faults survived", ">= 30, all", kinds},
	{"R06", "mutations of the failure handling that the suite detects", "100 %", mutations},
	{"R07", "recovery after the primary can write again, worst kind", "<= 2 s", recovery},
	{"R08", "p99 of the other shards with 1 of 3 shards down / before, median of 5 pairs", "<= 1.5", isolation},
	{"R09", "p99 of the keys of the shard that is down, breaker open", "< 5 ms", breakerOpen},
	{"R10", "p99.9 of a take while its shard is stopped, breaker closed, less the delay of an idle timer", "<= 60 ms", budget},
	{"R11", "time to the first answer of a service that starts without Redis", "<= 2 s", start},
	{"R12", "goodput at 10x load by distinct keys / without that load, with a budget of 100 ms; answers by fail-open", ">= 0.8; 0", goodput},
	{"R13", "p99 of the requests that Redis admitted at 10x load", "<= 100 ms", overloadLatency},
	{"R14", "idle connections held; p99 of other connections / before", ">= 10,000; <= 1.5", idle},
	{"R15", "time until a slow client is disconnected", "<= 10 s", slow},
	{"R16", "peak RSS with 5,000,000 clients", "<= 1 GiB", manyClients},
	{"R17", "Redis memory of a bucket with one limit", "<= 256 B", redisMemory},
	{"R18", "leaked by the soak: goroutines, file descriptors; growth of the heap", "0, 0; <= 5 %", leaks},
	{"R19", "requests without an answer after SIGTERM under load", "0", sigterm},
	{"R20", "100 reloads under load: requests lost, requests decided by two policy sets", "0, 0", reloads},
	{"R21", "histories that are not linearizable", "0 of >= 1,000", linearizable},
	{"R22", "steps in which Go and Lua differ", "0 of >= 10,000,000", differential},
	{fuzzedRow, "fuzz executions over all targets; crashes", ">= 100,000,000; 0", fuzzed},
	{"R24", "bypass attempts; requests that passed", "0 passed", bypasses},
	{"R25", "server clock +-1 h: starvation; extra tokens / bound", "0 s; <= 1", clocks},
	{"R26", "govulncheck findings; secrets in logs", "0; 0", secrets},
}

const million = 1_000_000

// fuzzedRow takes an hour. It is measured only with the flag -fuzz.
const fuzzedRow = "R23"

func overAdmissions(r *runner) (string, bool, error) {
	s, err := r.runSoak()
	return fmt.Sprintf("%d of %d decisions, %d faults of %d kinds, seed %d", s.Redis.BeyondBound, s.Decisions, s.Faults, len(s.Kinds), s.Seed),
		s.Redis.BeyondBound == 0 && s.Decisions >= 10*million, err
}

func doubleDebits(r *runner) (string, bool, error) {
	s, err := r.runSoak()
	if err != nil {
		return "", false, err
	}
	all, err := r.runFaults()
	single := int64(0)
	for _, f := range all {
		if f.Loss.Split == 0 { // two primaries at once each count by themselves
			single += f.DoubleDebited
		}
	}
	return fmt.Sprintf("%d in the soak, %d in %d faults", s.Redis.DoubleDebited, single, len(all)), s.Redis.DoubleDebited+single == 0, err
}

func falseDenials(r *runner) (string, bool, error) {
	type baseline struct {
		Decisions int64
		Redis     struct{ FalseDenials, StaleDenials, Gained, DoubleDebited, OverAdmitted int64 }
	}
	b, err := figure[baseline](r, "baseline", r.test(faultsPkg, "^TestBaseline$"))
	denials := b.Redis.FalseDenials + b.Redis.StaleDenials
	return fmt.Sprintf("%d of %d decisions", denials, b.Decisions),
		denials+b.Redis.Gained+b.Redis.DoubleDebited+b.Redis.OverAdmitted == 0 && b.Decisions >= 10*million, err
}

func extraOfBound(r *runner) (string, bool, error) {
	s, err := r.runSoak()
	if err != nil {
		return "", false, err
	}
	all, err := r.runFaults()
	worst, kind := s.Redis.ShareOfBound, "the soak"
	for _, f := range all {
		if f.share() > worst {
			worst, kind = f.share(), f.Kind
		}
	}
	return fmt.Sprintf("%.2f at most (%s); local stores 0 extra", worst, kind), worst <= 1 && len(s.Local.First) == 0, err
}

func kinds(r *runner) (string, bool, error) {
	all, err := r.runFaults()
	survived := 0
	for _, f := range all {
		if f.Passed {
			survived++
		}
	}
	return fmt.Sprintf("%d of %d", survived, len(all)), survived == len(all) && survived >= minFaults, err
}

func mutations(r *runner) (string, bool, error) {
	type figures struct{ Killed, All int }
	m, err := figure[figures](r, "mutation", r.test("./test/mutation", "^TestMutations_areKilled$"))
	return fmt.Sprintf("%d of %d", m.Killed, m.All), m.All > 0 && m.Killed == m.All, err
}

func recovery(r *runner) (string, bool, error) {
	s, err := r.runSoak()
	if err != nil {
		return "", false, err
	}
	all, err := r.runFaults()
	worst, kind := s.SlowestRecovery, "the soak"
	for _, f := range all {
		if f.Recovery > worst {
			worst, kind = f.Recovery, f.Kind
		}
	}
	return fmt.Sprintf("%v (%s)", worst.Round(time.Millisecond), kind), worst <= 2*time.Second, err
}

type isolationFigures struct {
	Ratio float64
	Open  time.Duration
}

func (r *runner) runIsolation() (isolationFigures, error) {
	return figure[isolationFigures](r, "isolation", r.test(faultsPkg, "^TestIsolation$"))
}

func isolation(r *runner) (string, bool, error) {
	f, err := r.runIsolation()
	return fmt.Sprintf("%.2f", f.Ratio), f.Ratio > 0 && f.Ratio <= 1.5, err
}

func breakerOpen(r *runner) (string, bool, error) {
	f, err := r.runIsolation()
	return f.Open.Round(time.Microsecond).String(), f.Open < 5*time.Millisecond, err
}

func budget(r *runner) (string, bool, error) {
	type figures struct {
		Take, Less time.Duration
		Takes      int
	}
	f, err := figure[figures](r, "budget", r.test(faultsPkg, "^TestBudget$"))
	return fmt.Sprintf("%v (%v) of %d", f.Less.Round(time.Microsecond), f.Take.Round(time.Microsecond), f.Takes),
		f.Less <= 60*time.Millisecond, err
}

func start(r *runner) (string, bool, error) {
	type figures struct{ First time.Duration }
	f, err := figure[figures](r, "start", r.test(endToEnd, "^TestStart_theFirstAnswerDoesNotWaitForRedis$"))
	return f.First.Round(time.Millisecond).String(), f.First <= 2*time.Second, err
}

type overloadFigures struct {
	Goodput float64
	P99     time.Duration
	Open    int
}

func (r *runner) runOverload() (overloadFigures, error) {
	return figure[overloadFigures](r, "overload", r.test(endToEnd, "^TestOverload_aFloodOfNewKeysIsStillLimited$"))
}

func goodput(r *runner) (string, bool, error) {
	f, err := r.runOverload()
	return fmt.Sprintf("%.2f; %d", f.Goodput, f.Open), f.Goodput >= 0.8 && f.Open == 0, err
}

func overloadLatency(r *runner) (string, bool, error) {
	f, err := r.runOverload()
	return f.P99.Round(time.Millisecond).String(), f.P99 <= 100*time.Millisecond, err
}

func idle(r *runner) (string, bool, error) {
	type figures struct {
		Held  int
		Ratio float64
	}
	f, err := figure[figures](r, "idle", r.test(endToEnd, "^TestHostile_idleConnectionsDelayNoRequest$"))
	return fmt.Sprintf("%d; %.2f", f.Held, f.Ratio), f.Held >= 10_000 && f.Ratio <= 1.5, err
}

func slow(r *runner) (string, bool, error) {
	type figures struct{ CutOff time.Duration }
	f, err := figure[figures](r, "slow", r.test(endToEnd, "^TestHostile_slowClientsAreCutOff$"))
	return f.CutOff.Round(10 * time.Millisecond).String(), f.CutOff <= 10*time.Second, err
}

func manyClients(r *runner) (string, bool, error) {
	type figures struct{ Clients, Peak int }
	f, err := figure[figures](r, "clients", r.test(endToEnd, "^TestHostile_manyClientsNeedBoundedMemory$"))
	return fmt.Sprintf("%d MiB, %d clients", f.Peak>>20, f.Clients), f.Peak <= 1<<30 && f.Clients >= 5*million, err
}

func redisMemory(r *runner) (string, bool, error) {
	type figures struct{ Bytes int }
	f, err := figure[figures](r, "redis-memory", r.test(faultsPkg, "^TestRedisMemory$"))
	return fmt.Sprintf("%d B", f.Bytes), f.Bytes > 0 && f.Bytes <= 256, err
}

func leaks(r *runner) (string, bool, error) {
	s, err := r.runSoak()
	goroutines, files := s.After.Goroutines-s.Before.Goroutines, s.After.Files-s.Before.Files
	grown := 100 * (s.HeapAfter - s.HeapBefore) / max(s.HeapBefore, 1)
	return fmt.Sprintf("%d, %d; %+.1f %%", goroutines, files, grown), goroutines <= 0 && files <= 0 && grown <= 5, err
}

func sigterm(r *runner) (string, bool, error) {
	type figures struct{ Answered, Lost int64 }
	f, err := figure[figures](r, "shutdown-terminated", r.test(endToEnd, "^TestShutdown_underLoadEveryRequestIsAnswered$"))
	return fmt.Sprintf("%d of %d", f.Lost, f.Lost+f.Answered), f.Lost == 0 && f.Answered > 0, err
}

func reloads(r *runner) (string, bool, error) {
	type figures struct{ Reloads, Answered, Lost, Mixed int64 }
	f, err := figure[figures](r, "reload", r.test(endToEnd, "^TestReload_underLoadNoRequestSeesTwoSets$"))
	return fmt.Sprintf("%d, %d of %d answers, %d reloads", f.Lost, f.Mixed, f.Answered, f.Reloads),
		f.Lost+f.Mixed == 0 && f.Reloads >= 100, err
}

func linearizable(r *runner) (string, bool, error) {
	type figures struct{ Histories, Bad int }
	f, err := figure[figures](r, "linear", r.test(faultsPkg, "^TestLinearizable$"))
	return fmt.Sprintf("%d of %d", f.Bad, f.Histories), f.Bad == 0 && f.Histories >= 1000, err
}

func differential(r *runner) (string, bool, error) {
	if err := r.test("./internal/adapters/redisstore/script", "^TestDifferential$", "-differential.steps=10000000"); err != nil {
		return "", false, err // the test ends at the first difference
	}
	return "0 of 10000000", true, nil
}

var executions = regexp.MustCompile(`(?m)^fuzz: (\d+) executions of (\d+) targets`)

func fuzzed(r *runner) (string, bool, error) {
	out, err := exec.CommandContext(r.ctx, "scripts/fuzz.sh", r.fuzz).CombinedOutput()
	found := executions.FindStringSubmatch(string(out))
	if err != nil || found == nil {
		return "", false, errors.Join(err, errors.New(lastLines(string(out), 20)))
	}
	n, err := strconv.Atoi(found[1])
	return fmt.Sprintf("%d over %s targets; 0", n, found[2]), n >= 100*million, err
}

func bypasses(r *runner) (string, bool, error) {
	type figures struct{ Attempts, Passed int }
	err := r.test(endToEnd, "^TestHostile_(noRequestGetsPastTheLimit|addressesBeforeTheProxysAreIgnored)$")
	address, err := figure[figures](r, "bypass-by-address", err)
	if err != nil {
		return "", false, err
	}
	header, err := figure[figures](r, "bypass-by-header", nil)
	passed := address.Passed + header.Passed
	return fmt.Sprintf("%d; %d", address.Attempts+header.Attempts, passed), passed == 0, err
}

func clocks(r *runner) (string, bool, error) {
	all, err := r.runFaults()
	worst, denials, n := 0.0, int64(0), 0
	for _, f := range all {
		if strings.Contains(f.Kind, "clock") {
			n++
			worst, denials = max(worst, f.share()), denials+f.FalseDenials
		}
	}
	return fmt.Sprintf("%d false denials; %.2f, %d kinds", denials, worst, n), n > 0 && denials == 0 && worst <= 1, err
}

func secrets(r *runner) (string, bool, error) {
	if err := r.test(endToEnd, "^TestSecrets_areNeverShown$"); err != nil {
		return "", false, err
	}
	err := r.run("govulncheck", "scripts/vuln.sh")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 4 {
		return "", false, notRunError("secrets: 0; govulncheck: its database is not reachable")
	}
	return "0; 0", err == nil, err
}
