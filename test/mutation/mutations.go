package main

const (
	redisstore = "./internal/adapters/redisstore"
	app        = "./internal/app"
	httpfiber  = "./internal/adapters/httpfiber"
	policyfile = "./internal/adapters/policyfile"
	faults     = "./test/faults"
	endToEnd   = "./test"
)

// mutations are all handlings that are taken out, one at a time: first those of [refusals], what a server answers
// instead of deciding, then by what they handle.
//
// Some faults of the suite have none, since nothing of ours answers them:
//   - requests or answers sliced: both sides read until a line is whole;
//   - FLUSHALL, eviction, a kill without persistence: a bucket that is forgotten is full, and the suite computes the bound;
//   - an append-only file, fork and fsync stalls: time-outs like others;
//   - a clock that jumps ahead, nodes whose own clocks disagree: no code reads a clock of ours to decide, so there is
//     none to take out; TestClocks_ofTheNodesDecideNothing moves them;
//   - an upstream that fails: there is no code that asks again.
var mutations = append(refusals(),
	mutation{
		"scripts are sent again after a lost answer", "internal/adapters/redisstore/client.go",
		"MaxRetries: -1,", "MaxRetries: 3,", redisstore, "TestTakeMany_aLostOrGarbledAnswer",
	},
	mutation{
		"scripts are sent again after a lost answer, as the law sees it", "internal/adapters/redisstore/client.go",
		"MaxRetries: -1,", "MaxRetries: 3,", faults, "TestFaults/some_answers_cut_in_the_middle",
	},
	mutation{
		"a cluster's scripts are sent again", "internal/adapters/redisstore/clusterbatch.go",
		"func (*onceCmd) NoRetry() bool { return true }", "func (*onceCmd) NoRetry() bool { return false }",
		redisstore, "TestCluster",
	},
	mutation{
		"a read-only server runs the script", "internal/adapters/redisstore/take.lua",
		"#!lua\n", "-- lua\n", redisstore, "TestTakeMany_serversThatCannotWrite|TestScript_shipped",
	},
	mutation{
		"a script that a server lost is not sent again", "internal/adapters/redisstore/script.go",
		`return redis.HasErrorPrefix(err, "NOSCRIPT")`, `return redis.HasErrorPrefix(err, "NONE")`, faults, "TestFaults/SCRIPT_FLUSH",
	},
	mutation{
		"the breaker never opens after failures in a row", "internal/adapters/redisstore/breaker.go",
		"if g.inARow.Add(1) >= tripInARow {", "if g.inARow.Add(1) < 0 {", redisstore, "TestBreaker",
	},
	mutation{
		"the breaker never closes", "internal/adapters/redisstore/breaker.go",
		"	g.circuit.Close()\n	g.refusal.Store(nil)\n", "	g.circuit.Close()\n", faults, "TestFaults/refused",
	},
	mutation{
		"an open breaker lets everything through", "internal/adapters/redisstore/breaker.go",
		"	if r == nil {\n		return nil\n	}\n	g.counts.refused", "	if r == nil || groups > 0 {\n		return nil\n	}\n	g.counts.refused",
		redisstore, "TestBreaker",
	},
	mutation{
		"a full server does not trip", "internal/adapters/redisstore/errors.go",
		`{"OOM", failure{ports.FailureOOM, notRun, true}}`, `{"OOM", failure{ports.FailureOOM, notRun, false}}`, redisstore, "TestClassify",
	},
	mutation{
		"the queue has no bound", "internal/adapters/redisstore/batcher.go",
		"if b.queued+len(c.groups) > maxQueued {", "if b.queued+len(c.groups) > 1<<40 {", redisstore, "TestBatcher",
	},
	mutation{
		"our own overload opens the gate", "internal/app/settle.go",
		"		mode = domain.FailLocal\n	}\n	switch op", "		mode = domain.FailOpen\n	}\n	switch op", app, "TestDecide_failureModes|TestGroups",
	},
	mutation{
		"fail-closed lets through", "internal/app/settle.go",
		"	case mode == domain.FailOpen:\n		w.states[i] = statePassedOpen", "	case mode != domain.FailLocal:\n		w.states[i] = statePassedOpen",
		faults, "TestFaults/refused",
	},
	mutation{
		"a bucket ahead of the clock stays ahead", "internal/adapters/redisstore/take.lua",
		"if spends or (skewed and op ~= '1') then", "if spends then", faults, "TestFaults/clock_an_hour_back",
	},
	mutation{
		"an expiry has nothing to spare", "internal/adapters/redisstore/take.lua",
		"    slack_us = 1000000\n", "    slack_us = 0\n", redisstore, "TestScript_aStall",
	},
	mutation{
		"one group's error ends the script", "internal/adapters/redisstore/take.lua",
		"local ok, failure = pcall(decide_all)", "local ok, failure = true, decide_all()", redisstore, "TestScript",
	},
	mutation{
		"the shortcut forgets no refund", "internal/app/shortcut.go",
		"		s.generation(req.Key).Add(1)\n		return\n", "		return\n", app, "TestShortcut",
	},
	mutation{
		"a denial is remembered for ever", "internal/app/shortcut.go",
		"now-d.sent > s.maxAge", "now < d.sent", app, "TestShortcut",
	},
	mutation{
		"the first address of X-Forwarded-For counts", "internal/adapters/httpfiber/clientaddr.go",
		"!addr.IsValid() || !p.Trusts(addr)", "!addr.IsValid() || p.Trusts(addr)", endToEnd, "TestHostile_whatStandsBefore",
	},

	// Latency, jitter, bandwidth, vanished packets, SIGSTOP, DEBUG SLEEP, CLIENT PAUSE: the budget.
	mutation{
		"a batch has no deadline", "internal/adapters/redisstore/batcher.go",
		"batch.chunks[0].since.Add(b.budget)", "batch.chunks[0].since.Add(1000 * b.budget)", redisstore, "TestBatcher_theBudget",
	},
	mutation{
		"a decision waits for a minute", "internal/adapters/redisstore/store.go",
		"	manager, err := newShardManager(cfg, s)\n", "	cfg.TakeTimeout = maxTimeout\n	manager, err := newShardManager(cfg, s)\n",
		faults, "TestFaults/answers_vanish",
	},
	mutation{
		"deadlines do not count while a reply is read", "internal/adapters/redisstore/client.go",
		"ContextTimeoutEnabled: true,", "ContextTimeoutEnabled: false,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"what has waited too long is still sent", "internal/adapters/redisstore/batcher.go",
		"case waited > b.budget/2:", "case waited > 1000*b.budget:", redisstore, "TestBatcher_waitingTooLong",
	},
	mutation{
		"what a caller who left had asked is sent", "internal/adapters/redisstore/batcher.go",
		"		c.state, done = chunkAbandoned, notRun\n", "		done = notRun\n", redisstore, "TestBatcher_aCallerWhoLeaves",
	},
	mutation{
		"PING is the probe", "internal/adapters/redisstore/manager.go",
		"func(ctx context.Context) error { return probeWith(ctx, send, probeKey) },", "func(ctx context.Context) error { return client.Ping(ctx).Err() },",
		redisstore, "TestOutage_opens.*/paused_for_writes",
	},

	// Refused and reset connections, kill -9, restarts: connections, the breaker, and its probes.
	mutation{
		"a broken connection is no failure", "internal/adapters/redisstore/errors.go",
		"return failure{kindOfConn(err), mayHaveRun, true}", "return failure{kindOfConn(err), mayHaveRun, false}", redisstore, "TestClassify$",
	},
	mutation{
		"a lost answer is taken for a refusal", "internal/adapters/redisstore/errors.go",
		"return failure{kindOfConn(err), mayHaveRun, true}", "return failure{kindOfConn(err), notRun, true}",
		redisstore, "TestClassify_whatRealServersSay/answer_cut_off",
	},
	mutation{
		"a garbled answer is believed", "internal/adapters/redisstore/reply.go",
		"if !ok || n < lowest || n > highest {", "if !ok {", redisstore, "TestDecodeReply",
	},
	mutation{
		"connections that fail are counted for ever", "internal/adapters/redisstore/dial.go",
		"			return deadConn{&dialError{err}}, nil\n", "			return nil, err\n", redisstore, "TestOutage_aShardThatIsBack",
	},
	mutation{
		"a refused connection is tried five times", "internal/adapters/redisstore/client.go",
		"DialerRetries: 1,", "DialerRetries: 5,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"a shard that is back is met by all connections at once", "internal/adapters/redisstore/client.go",
		"min(maxConcurrentDials, c.PoolSize),", "c.PoolSize,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"connections live for ever, wherever their name points", "internal/adapters/redisstore/client.go",
		"ConnMaxLifetime:       connMaxLifetime,", "ConnMaxLifetime:       0,", redisstore, "TestConnections_move",
	},
	mutation{
		"the breaker never opens when half of the calls fail", "internal/adapters/redisstore/breaker.go",
		"tripRate    = 0.5", "tripRate    = 1.0", redisstore, "TestBreaker_opensWhenHalf",
	},
	mutation{
		"probes are far apart", "internal/adapters/redisstore/probe.go",
		"probeMost   = 400 * time.Millisecond", "probeMost   = 4 * time.Second", redisstore, "TestBreaker_probesUntil",
	},
	mutation{
		"a caller who leaves counts for the breaker", "internal/adapters/redisstore/errors.go",
		"return failure{ports.FailureCancelled, notRun, false}", "return failure{ports.FailureCancelled, notRun, true}",
		redisstore, "TestBreaker_whatIsNoOutage",
	},
	mutation{
		"an exhausted pool may have run", "internal/adapters/redisstore/errors.go",
		"return failure{ports.FailurePool, notRun, true}", "return failure{ports.FailurePool, mayHaveRun, true}", redisstore, "TestClassify$",
	},

	// Passwords, permissions, certificates.
	mutation{
		"what the user lacks is not told", "internal/adapters/redisstore/probe.go",
		"cause = g.explain(cause)", "_ = g.explain", redisstore, "TestACL_aMissingCommand",
	},
	mutation{
		"a certificate of a stranger is a dial error", "internal/adapters/redisstore/errors.go",
		"	case isTLSError(err):\n		return ports.FailureTLS\n	}\n	return ports.FailureDial", "	}\n	return ports.FailureDial",
		redisstore, "TestClassify$",
	},
	mutation{
		"certificates are not verified", "internal/adapters/redisstore/client.go",
		"MinVersion: tls.VersionTLS12, ServerName", "MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, ServerName",
		faults, "TestFaults/certificate",
	},

	// WRONGTYPE and corrupt values.
	mutation{
		"one key of another type is the shard's failure", "internal/adapters/redisstore/breaker.go",
		"return finding{healthAlive, bitOf(f.kind), nil}", "return finding{healthFailing, bitOf(f.kind), err}",
		redisstore, "TestBreaker_oneGroupsFault",
	},

	// Clusters and Sentinel.
	mutation{
		"redirects are not followed", "internal/adapters/redisstore/cluster.go",
		"MaxRedirects: maxRedirects,", "MaxRedirects: -1,", redisstore, "TestCluster/redirects_are_followed",
	},
	mutation{
		"a dead primary's successor is not looked for", "internal/adapters/redisstore/clusterbatch.go",
		"	c.refresh()\n	if failed == len(runs) {", "	if failed == len(runs) {", redisstore, "TestCluster/a_replica_takes_over_from_a_primary_that_died",
	},
	mutation{
		"a cluster's nodes share a breaker", "internal/adapters/redisstore/cluster.go",
		"	if !c.known.Load() {\n		return c.entry", "	if c.known.Load() || !c.known.Load() {\n		return c.entry",
		redisstore, "TestCluster/a_dead_primary",
	},
	mutation{
		"a redirect passes for the answer of the node that it led to", "internal/adapters/redisstore/clusterbatch.go",
		"c.refused, err = err, nil", "c.refused = err", redisstore, "TestOnceCmd",
	},
	mutation{
		"another primary behind Sentinel goes unnoticed", "internal/adapters/redisstore/sentinel.go",
		"			w.changed()\n", "			_ = w.changed\n", redisstore, "TestSentinel/a_replica_takes_over_from_a_primary_that_lives",
	},

	// Clocks, and what is placed where.
	mutation{
		"a clock that is off is not told", "internal/adapters/redisstore/stats.go",
		"far := skew.Abs() > MaxSkew", "far := skew.Abs() > 1e6*MaxSkew", redisstore, "TestClocks",
	},

	// A request on several shards, of which one denies or is unknown.
	mutation{
		"what the others have taken is not given back", "internal/app/linked.go",
		"	undo.Op = domain.OpRefund\n", "	undo.Op = domain.OpPeek\n", app, "TestGroups_denialGivesBack",
	},

	// The process itself: files, signals, its policies.
	mutation{
		"a lack of files ends the service", "internal/adapters/httpfiber/connections.go",
		"if !passes(err) {", "if passes(err) || !passes(err) {", httpfiber, "TestServe_outlives",
	},
	mutation{
		"a service that stops keeps its connections", "internal/adapters/httpfiber/httpserver.go",
		"		ctx.SetConnectionClose()\n	}\n	if span", "		_ = ctx\n	}\n	if span", httpfiber, "TestShutdown_drainAnswers",
	},
	mutation{
		"a file that is half written is believed to be broken", "internal/adapters/policyfile/live.go",
		"l.doubted = err != nil && changed", "l.doubted = err != nil && !changed", policyfile, "TestLive_followsTheFile|TestLive_brokenFile",
	},
)

// refusals has the row of each answer taken out that a server gives instead of a decision.
func refusals() []mutation {
	var all []mutation
	row := func(word, kind, tests string) {
		all = append(all, mutation{
			"the answer " + word + " is not known", "internal/adapters/redisstore/errors.go",
			`	{"` + word + `", failure{ports.Failure` + kind + ", notRun, true}},\n", "", redisstore, tests,
		})
	}
	said := func(name string) string { return "TestClassify_whatRealServersSay/" + name }
	row("BUSY", "Busy", said("blocked_by_a_script"))
	row("READONLY", "ReadOnly", said("replica$"))
	row("NOREPLICAS", "NoReplicas", said("too_few_replicas"))
	row("MISCONF", "Misconf", said("cannot_save"))
	row("LOADING", "Loading", said("loading"))
	row("CLUSTERDOWN", "ClusterDown", said("cluster_without_slots"))
	row("WRONGPASS", "Auth", said("wrong_password"))
	row("NOPERM", "NoPerm", said("no_permission_for_scripts"))
	row("ERR max number of clients reached", "MaxClients", "TestClassify$") // a reset may overtake it
	row("MASTERDOWN", "MasterDown", "TestClassify$")                        // a script is refused as READONLY first
	return all
}
