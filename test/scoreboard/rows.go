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

// scoreboard is all rows.
var scoreboard = []row{
	{"R01", "over-admissions by the store, under faults", "0 tokens of >= 10,000,000 decisions", overAdmissions},
	{"R02", "double debits", "0 tokens", doubleDebits},
	{"R03", "unjust denials without faults", "0 of >= 10,000,000 decisions", unjustDenials},
	{"R04", "extra tokens of fallback and data loss / their bound", "<= 1", extraOfBound},
	{"R05", "kinds of faults survived", ">= 30, all", kinds},
	{"R06", "mutations of the handling that the suite sees", "100 %", mutations},
	{"R07", "recovery, from when the primary could write again, worst kind", "<= 2 s", recovery},
	{"R08", "others' p99 with 1 of 3 shards dead / before, median of 5 pairs", "<= 1.5", isolation},
	{"R09", "p99 of the dead shard's keys, breaker open", "< 5 ms", breakerOpen},
	{"R10", "p99.9 of a take while its shard is stopped, breaker closed, less an idle timer's", "<= 60 ms", budget},
	{"R11", "first answer of a service that starts without Redis", "<= 2 s", start},
	{"R12", "goodput at 10x load by distinct keys / alone, with a budget of 100 ms; answers by fail-open", ">= 0.8; 0", goodput},
	{"R13", "p99 of what Redis admitted at 10x load", "<= 100 ms", overloadLatency},
	{"R14", "idle connections held; others' p99 / before", ">= 10,000; <= 1.5", idle},
	{"R15", "slow clients are cut off after", "<= 10 s", slow},
	{"R16", "peak RSS with 5,000,000 clients", "<= 1 GiB", manyClients},
	{"R17", "Redis memory of a bucket of one limit", "<= 256 B", redisMemory},
	{"R18", "left after the soak: goroutines, descriptors; growth of the heap", "0, 0; <= 5 %", leaks},
	{"R19", "requests without an answer at SIGTERM under load", "0", sigterm},
	{"R20", "100 reloads under load: requests lost, decided by two sets", "0, 0", reloads},
	{"R21", "histories that are not linearizable", "0 of >= 1,000", linearizable},
	{"R22", "steps in which Go and Lua differ", "0 of >= 10,000,000", differential},
	{fuzzedRow, "fuzz executions over all targets; crashes", ">= 100,000,000; 0", fuzzed},
	{"R24", "bypasses tried; passed", "0 passed", bypasses},
	{"R25", "server clock +-1 h: starvation; extra / bound", "0 s; <= 1", clocks},
	{"R26", "govulncheck findings; secrets in logs", "0; 0", secrets},
}

const million = 1_000_000

// fuzzedRow takes an hour, and is measured only if it is told for how long to fuzz.
const fuzzedRow = "R23"

func overAdmissions(b *bench) (string, bool, error) {
	s, err := b.soaked()
	return fmt.Sprintf("%d of %d decisions, %d faults of %d kinds, seed %d", s.Redis.Beyond, s.Decisions, s.Faults, len(s.Kinds), s.Seed),
		s.Redis.Beyond == 0 && s.Decisions >= 10*million, err
}

func doubleDebits(b *bench) (string, bool, error) {
	s, err := b.soaked()
	if err != nil {
		return "", false, err
	}
	all, err := b.faults()
	single := int64(0)
	for _, f := range all {
		if f.Forgets.Split == 0 { // else two primaries count each by itself
			single += f.Doubled
		}
	}
	return fmt.Sprintf("%d in the soak, %d in %d faults", s.Redis.Doubled, single, len(all)), s.Redis.Doubled+single == 0, err
}

func unjustDenials(b *bench) (string, bool, error) {
	type calm struct {
		Decisions int64
		Redis     struct{ Unjust, UnjustRepeated, Gained, Doubled, OverAdmitted int64 }
	}
	c, err := figure[calm](b, "calm", b.test(faultsPkg, "^TestCalm$"))
	r := c.Redis
	return fmt.Sprintf("%d of %d decisions", r.Unjust+r.UnjustRepeated, c.Decisions),
		r.Unjust+r.UnjustRepeated+r.Gained+r.Doubled+r.OverAdmitted == 0 && c.Decisions >= 10*million, err
}

func extraOfBound(b *bench) (string, bool, error) {
	s, err := b.soaked()
	if err != nil {
		return "", false, err
	}
	all, err := b.faults()
	worst, kind := s.Redis.Worst, "the soak"
	for _, f := range all {
		if f.ofBound() > worst {
			worst, kind = f.ofBound(), f.Kind
		}
	}
	return fmt.Sprintf("%.2f at most (%s); local stores 0 beyond the law", worst, kind), worst <= 1 && len(s.Local.First) == 0, err
}

func kinds(b *bench) (string, bool, error) {
	all, err := b.faults()
	survived := 0
	for _, f := range all {
		if f.Passed {
			survived++
		}
	}
	return fmt.Sprintf("%d of %d", survived, len(all)), survived == len(all) && survived >= leastFaults, err
}

func mutations(b *bench) (string, bool, error) {
	type figures struct{ Killed, All int }
	m, err := figure[figures](b, "mutation", b.run("mutation", "go", "run", "./test/mutation"))
	return fmt.Sprintf("%d of %d", m.Killed, m.All), m.All > 0 && m.Killed == m.All, err
}

func recovery(b *bench) (string, bool, error) {
	s, err := b.soaked()
	if err != nil {
		return "", false, err
	}
	all, err := b.faults()
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

func (b *bench) isolated() (isolationFigures, error) {
	return figure[isolationFigures](b, "isolation", b.test(faultsPkg, "^TestIsolation$"))
}

func isolation(b *bench) (string, bool, error) {
	f, err := b.isolated()
	return fmt.Sprintf("%.2f", f.Ratio), f.Ratio > 0 && f.Ratio <= 1.5, err
}

func breakerOpen(b *bench) (string, bool, error) {
	f, err := b.isolated()
	return f.Open.Round(time.Microsecond).String(), f.Open < 5*time.Millisecond, err
}

func budget(b *bench) (string, bool, error) {
	type figures struct {
		Take, Less time.Duration
		Takes      int
	}
	f, err := figure[figures](b, "budget", b.test(faultsPkg, "^TestBudget$"))
	return fmt.Sprintf("%v (%v) of %d", f.Less.Round(time.Microsecond), f.Take.Round(time.Microsecond), f.Takes),
		f.Less <= 60*time.Millisecond, err
}

func start(b *bench) (string, bool, error) {
	type figures struct{ First time.Duration }
	f, err := figure[figures](b, "start", b.test(endToEnd, "^TestStart_theFirstAnswerDoesNotWaitForRedis$"))
	return f.First.Round(time.Millisecond).String(), f.First <= 2*time.Second, err
}

type overloadFigures struct {
	Goodput float64
	P99     time.Duration
	Open    int
}

func (b *bench) overloaded() (overloadFigures, error) {
	return figure[overloadFigures](b, "overload", b.test(endToEnd, "^TestOverload_aFloodOfKeysOpensNoGate$"))
}

func goodput(b *bench) (string, bool, error) {
	f, err := b.overloaded()
	return fmt.Sprintf("%.2f; %d", f.Goodput, f.Open), f.Goodput >= 0.8 && f.Open == 0, err
}

func overloadLatency(b *bench) (string, bool, error) {
	f, err := b.overloaded()
	return f.P99.Round(time.Millisecond).String(), f.P99 <= 100*time.Millisecond, err
}

func idle(b *bench) (string, bool, error) {
	type figures struct {
		Held  int
		Ratio float64
	}
	f, err := figure[figures](b, "idle", b.test(endToEnd, "^TestHostile_idleConnectionsHoldUpNobody$"))
	return fmt.Sprintf("%d; %.2f", f.Held, f.Ratio), f.Held >= 10_000 && f.Ratio <= 1.5, err
}

func slow(b *bench) (string, bool, error) {
	type figures struct{ CutOff time.Duration }
	f, err := figure[figures](b, "slow", b.test(endToEnd, "^TestHostile_slowClientsAreCutOff$"))
	return f.CutOff.Round(10 * time.Millisecond).String(), f.CutOff <= 10*time.Second, err
}

func manyClients(b *bench) (string, bool, error) {
	type figures struct{ Clients, Peak int }
	f, err := figure[figures](b, "clients", b.test(endToEnd, "^TestHostile_clientsWithoutEndNeedBoundedMemory$"))
	return fmt.Sprintf("%d MiB, %d clients", f.Peak>>20, f.Clients), f.Peak <= 1<<30 && f.Clients >= 5*million, err
}

func redisMemory(b *bench) (string, bool, error) {
	type figures struct{ Bytes int }
	f, err := figure[figures](b, "redis-memory", b.test(faultsPkg, "^TestRedisMemory$"))
	return fmt.Sprintf("%d B", f.Bytes), f.Bytes > 0 && f.Bytes <= 256, err
}

func leaks(b *bench) (string, bool, error) {
	s, err := b.soaked()
	goroutines, files := s.After.Goroutines-s.Before.Goroutines, s.After.Files-s.Before.Files
	grown := 100 * (s.HeapAfter - s.HeapBefore) / max(s.HeapBefore, 1)
	return fmt.Sprintf("%d, %d; %+.1f %%", goroutines, files, grown), goroutines <= 0 && files <= 0 && grown <= 5, err
}

func sigterm(b *bench) (string, bool, error) {
	type figures struct{ Answered, Lost int64 }
	f, err := figure[figures](b, "shutdown-terminated", b.test(endToEnd, "^TestShutdown_underLoadEveryRequestIsAnswered$"))
	return fmt.Sprintf("%d of %d", f.Lost, f.Lost+f.Answered), f.Lost == 0 && f.Answered > 0, err
}

func reloads(b *bench) (string, bool, error) {
	type figures struct{ Reloads, Answered, Lost, Mixed int64 }
	f, err := figure[figures](b, "reload", b.test(endToEnd, "^TestReload_underLoadNoRequestSeesTwoSets$"))
	return fmt.Sprintf("%d, %d of %d answers, %d reloads", f.Lost, f.Mixed, f.Answered, f.Reloads),
		f.Lost+f.Mixed == 0 && f.Reloads >= 100, err
}

func linearizable(b *bench) (string, bool, error) {
	type figures struct{ Histories, Bad int }
	f, err := figure[figures](b, "linear", b.test(faultsPkg, "^TestLinearizable$"))
	return fmt.Sprintf("%d of %d", f.Bad, f.Histories), f.Bad == 0 && f.Histories >= 1000, err
}

func differential(b *bench) (string, bool, error) {
	if err := b.test("./internal/adapters/redisstore", "^TestDifferential$", "-differential.steps=10000000"); err != nil {
		return "", false, err // it ends at the first difference
	}
	return "0 of 10000000", true, nil
}

var executions = regexp.MustCompile(`(?m)^fuzz: (\d+) executions of (\d+) targets`)

func fuzzed(b *bench) (string, bool, error) {
	out, err := exec.CommandContext(b.ctx, "scripts/fuzz.sh", b.fuzz).CombinedOutput()
	found := executions.FindStringSubmatch(string(out))
	if err != nil || found == nil {
		return "", false, errors.Join(err, errors.New(lastLines(string(out), 20)))
	}
	n, err := strconv.Atoi(found[1])
	return fmt.Sprintf("%d over %s targets; 0", n, found[2]), n >= 100*million, err
}

func bypasses(b *bench) (string, bool, error) {
	type figures struct{ Attempts, Passed int }
	err := b.test(endToEnd, "^TestHostile_(nobodyGetsPastTheLimit|whatStandsBeforeTheProxysAddressIsNotBelieved)$")
	address, err := figure[figures](b, "bypass-by-address", err)
	if err != nil {
		return "", false, err
	}
	header, err := figure[figures](b, "bypass-by-header", nil)
	passed := address.Passed + header.Passed
	return fmt.Sprintf("%d; %d", address.Attempts+header.Attempts, passed), passed == 0, err
}

func clocks(b *bench) (string, bool, error) {
	all, err := b.faults()
	worst, unjust, n := 0.0, int64(0), 0
	for _, f := range all {
		if strings.Contains(f.Kind, "clock") {
			n++
			worst, unjust = max(worst, f.ofBound()), unjust+f.Unjust
		}
	}
	return fmt.Sprintf("%d unjust denials; %.2f, %d kinds", unjust, worst, n), n > 0 && unjust == 0 && worst <= 1, err
}

func secrets(b *bench) (string, bool, error) {
	if err := b.test(endToEnd, "^TestSecrets_areNeverShown$"); err != nil {
		return "", false, err
	}
	err := b.run("govulncheck", "scripts/vuln.sh")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 4 {
		return "", false, notRunError("secrets: 0; govulncheck: its database is out of reach")
	}
	return "0; 0", err == nil, err
}
