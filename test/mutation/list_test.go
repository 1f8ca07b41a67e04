package mutation

const (
	redisstore  = "./internal/adapters/redisstore"
	batch       = redisstore + "/batch"
	failures    = redisstore + "/failure"
	script      = redisstore + "/script"
	app         = "./internal/app"
	denialcache = app + "/denialcache"
	httpfiber   = "./internal/adapters/httpfiber"
	policyfile  = "./internal/adapters/policyfile"
	faults      = "./test/integration/faults"
	endToEnd    = "./test"
)

// mutations lists all mutations: first those of [refusals], then the others by the kind of failure.
//
// Some faults of the suite have no mutation, because no code of Velocity handles them:
//   - requests or replies in small pieces: both sides read until a line is complete;
//   - FLUSHALL, eviction, a kill without persistence: a lost bucket is full, and the suite computes the bound;
//   - stalls by the append-only file, fork or fsync: they are time-outs;
//   - a clock that jumps ahead, nodes whose own clocks differ: no decision reads a node's clock
//     (TestClocks_ofTheNodesDoNotMatter);
//   - an upstream that fails: no request is repeated.
var mutations = append(refusals(),
	mutation{ // the program's own clients do not retry either
		"scripts are sent again after a lost reply by a caller's client", "internal/adapters/redisstore/script/script.go",
		"func (once) NoRetry() bool { return true }", "func (once) NoRetry() bool { return false }",
		redisstore, "TestBorrowed_aLostOrGarbledAnswer",
	},
	mutation{
		"a caller's cluster client is waited for", "internal/adapters/redisstore/cluster/call.go",
		"	if !o.borrowed {\n", "	if !o.borrowed || o.borrowed {\n", redisstore, "TestBorrowed_nothingWaits.*/defaults",
	},
	mutation{
		"a cluster's scripts are sent again", "internal/adapters/redisstore/cluster/pipeline.go",
		"func (*onceCmd) NoRetry() bool { return true }", "func (*onceCmd) NoRetry() bool { return false }",
		redisstore, "TestCluster",
	},
	mutation{
		"a read-only server runs the script", "internal/adapters/redisstore/script/take.lua",
		"#!lua\n", "-- lua\n", redisstore, "TestTakeMany_serversThatCannotWrite",
	},
	mutation{
		"a script that the server has flushed is not sent again", "internal/adapters/redisstore/script/script.go",
		`redis.HasErrorPrefix(err, "NOSCRIPT")`, `redis.HasErrorPrefix(err, "NONE")`, faults, "TestFaults/SCRIPT_FLUSH",
	},
	mutation{
		"the breaker does not open after consecutive failures", "internal/adapters/redisstore/batch/breaker.go",
		"if b.inARow >= tripInARow ||", "if b.inARow < 0 ||", batch, "TestBreaker",
	},
	mutation{
		"the breaker does not close", "internal/adapters/redisstore/batch/breaker.go",
		"	b.inARow, b.recent = 0, window{}\n", "	if b.inARow > 0 {\n		return\n	}\n", faults, "TestFaults/refused",
	},
	mutation{
		"an open breaker sends all calls", "internal/adapters/redisstore/batch/batcher.go",
		"	err := b.breaker.refusal()\n", "	var err error\n",
		batch, "TestBreaker",
	},
	mutation{
		"a server without memory does not open the breaker", "internal/adapters/redisstore/failure/classify.go",
		`{"OOM", Failure{OOM, ports.ErrNotRun, true}}`, `{"OOM", Failure{OOM, ports.ErrNotRun, false}}`, failures, "TestClassify",
	},
	mutation{
		"the queue has no bound", "internal/adapters/redisstore/batch/batcher.go",
		"if b.queue.groups+len(it.groups) > maxQueued {", "if b.queue.groups+len(it.groups) > 1<<40 {", batch, "TestBatcher",
	},
	mutation{
		"overload of this process disables limiting", "internal/app/failurepolicy.go",
		"		mode = policy.FailLocal\n	}\n	switch", "		mode = policy.FailOpen\n	}\n	switch", app, "TestDecide_failureModes|TestMultiKey",
	},
	mutation{
		"fail-closed allows requests", "internal/app/failurepolicy.go",
		"	case policy.FailOpen:\n", "	case policy.FailOpen, policy.FailClosed:\n",
		faults, "TestFaults/refused",
	},
	mutation{
		"a bucket with a time in the future keeps it", "internal/adapters/redisstore/script/general.lua",
		"writes = spends or skewed and op ~= '1' and op ~= '7' and op ~= '8'", "writes = spends", faults, "TestFaults/clock_an_hour_back",
	},
	mutation{
		"what was used of a quota counts in the next period", "internal/adapters/redisstore/script/general.lua",
		"      elseif at < limit.start_us then\n", "      elseif false then\n", script, "TestDifferential",
	},
	mutation{
		"a quota that the script was sent wrong periods of is decided", "internal/adapters/redisstore/script/kinds.lua",
		"        kind.wrong, refused = true, refused or {}\n", "", script, "TestQuota_groupsOfAWrongPeriod",
	},
	mutation{
		"a group of a wrong period is not sent again", "internal/adapters/redisstore/batch/ask.go",
		"; len(again) > 0; {\n", "; len(again) > script.MaxGroups; {\n", redisstore, "TestQuota_periodsAreThose",
	},
	mutation{
		"a request whose slot is moving is not sent again", "internal/adapters/redisstore/batch/moves.go",
		"if indexes = moving(indexes, results); len(indexes) == 0 {", "if true {", batch, "TestMoves",
	},
	mutation{
		"an expiry has no margin", "internal/adapters/redisstore/script/take.lua",
		"    ttl_margin_us = 1000000\n", "    ttl_margin_us = 0\n", script, "TestScript_aStall",
	},
	mutation{
		"an error of one group ends the script", "internal/adapters/redisstore/script/run.lua",
		"local ok, failure = pcall(decide_all)", "local ok, failure = true, decide_all()", script, "TestScript",
	},
	mutation{
		"a take that fails keeps its permit", "internal/adapters/redisstore/script/run.lua",
		"redis.pcall('ZREM', taking[i].set, taking_id, long_id)", "", redisstore, "TestACL_aMissingCommandCostsNoToken",
	},
	mutation{
		"a take that passed loses its permit when a later group fails", "internal/adapters/redisstore/script/general.lua",
		"    taking = nil\n", "", script, "TestPermits_aSetOfAnotherType",
	},
	mutation{
		"expired permits count", "internal/adapters/redisstore/script/permits.lua",
		"    elseif expires <= now_us then\n", "    elseif false then\n", script, "TestDifferential",
	},
	mutation{
		"the denial cache ignores refunds", "internal/app/denialcache/cache.go",
		"		s.generation.Add(1)\n		return\n", "		return\n", denialcache, "TestCache",
	},
	mutation{
		"the denial cache has no maximum age", "internal/app/denialcache/cache.go",
		"maxAge: cfg.MaxAge", "maxAge: 1000 * cfg.MaxAge", denialcache, "TestCache",
	},
	mutation{
		"the first address of X-Forwarded-For counts", "internal/web/clientid/clientid.go",
		"!addr.IsValid() || !p.Trusts(addr)", "!addr.IsValid() || p.Trusts(addr)", endToEnd, "TestHostile_addressesBeforeTheProxys",
	},

	// Latency, jitter, bandwidth, lost packets, SIGSTOP, DEBUG SLEEP, CLIENT PAUSE: the budget.
	mutation{
		"a batch has no deadline", "internal/adapters/redisstore/batch/batcher.go",
		"x.oldest.Add(b.budget)", "x.oldest.Add(1000 * b.budget)", batch, "TestBatcher_theBudget",
	},
	mutation{
		"a decision may wait for a minute", "internal/adapters/redisstore/store.go",
		"	manager, err := newShardManager(cfg, take)\n", "	cfg.TakeTimeout = maxTimeout\n	manager, err := newShardManager(cfg, take)\n",
		faults, "TestFaults/replies_dropped",
	},
	mutation{
		"reading a reply has no deadline", "internal/adapters/redisstore/conn/client.go",
		"ContextTimeoutEnabled: true,", "ContextTimeoutEnabled: false,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"a group that has waited too long is sent", "internal/adapters/redisstore/batch/fill.go",
		"; waited > b.budget/2 {", "; waited > 1000*b.budget {", batch, "TestBatcher_waitingTooLong",
	},
	mutation{
		"a group of a cancelled request is sent", "internal/adapters/redisstore/batch/batcher.go",
		"	if b.queue.remove(it) {\n", "	if it.queued {\n",
		batch, "TestBatcher_aCancelledCall",
	},
	mutation{
		"cancelled requests fill the queue", "internal/adapters/redisstore/batch/queue.go",
		"	q.groups -= len(it.groups)\n", "", batch, "TestBatcher_callersThatLeave",
	},
	mutation{
		"a probe writes nothing", "internal/adapters/redisstore/batch/probe.go",
		"if outcomeOf(groups, b.ask(ctx, groups)).health == healthAlive &&", "if script.CheckPermissions(ctx, b.server.Client, groups[0].Request.Key) == nil &&",
		redisstore, "TestOutage_opens.*/paused_for_writes",
	},

	// Refused and reset connections, kill -9, restarts: connections, the breaker, and its probes.
	mutation{
		"a broken connection does not count as a failure", "internal/adapters/redisstore/failure/classify.go",
		"return Failure{kindOfConn(err), ErrMayHaveRun, true}", "return Failure{kindOfConn(err), ErrMayHaveRun, false}", failures, "TestClassify$",
	},
	mutation{
		"a lost reply counts as not run", "internal/adapters/redisstore/failure/classify.go",
		"return Failure{kindOfConn(err), ErrMayHaveRun, true}", "return Failure{kindOfConn(err), ports.ErrNotRun, true}",
		redisstore, "TestClassify_whatRealServersSay/answer_cut_off",
	},
	mutation{
		"a damaged reply is accepted", "internal/adapters/redisstore/script/reply.go",
		"if !ok || n < lowest || n > highest {", "if !ok {", script, "TestDecodeReply",
	},
	mutation{
		"failed connections stay counted", "internal/adapters/redisstore/conn/dial.go",
		"			return deadConn{&failure.DialError{Err: err}}, nil\n", "			return nil, err\n", redisstore, "TestOutage_aShardThatIsBack",
	},
	mutation{
		"a refused connection is tried five times", "internal/adapters/redisstore/conn/client.go",
		"DialerRetries: 1,", "DialerRetries: 5,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"a shard that is back gets all connections at once", "internal/adapters/redisstore/conn/client.go",
		"min(maxConcurrentDials, o.PoolSize),", "o.PoolSize,", redisstore, "TestGetClient_settings",
	},
	mutation{
		"connections have no maximum lifetime", "internal/adapters/redisstore/conn/client.go",
		"ConnMaxLifetime:       lifetime,", "ConnMaxLifetime:       0,", redisstore + "/conn", "TestConnections_move",
	},
	mutation{
		"the breaker does not open when half of the calls fail", "internal/adapters/redisstore/batch/breaker.go",
		"tripRate    = 0.5", "tripRate    = 1.0", batch, "TestBreaker_opensWhenHalf",
	},
	mutation{
		"probes are far apart", "internal/adapters/redisstore/batch/probe.go",
		"probeMost  = 400 * time.Millisecond", "probeMost  = 4 * time.Second", batch, "TestBreaker_probesUntil",
	},
	mutation{
		"a cancelled request counts for the breaker", "internal/adapters/redisstore/failure/classify.go",
		"return Failure{Cancelled, ports.ErrNotRun, false}", "return Failure{Cancelled, ports.ErrNotRun, true}",
		batch, "TestBreaker_whatIsNoOutage",
	},
	mutation{
		"an exhausted pool may have run", "internal/adapters/redisstore/failure/classify.go",
		"return Failure{Pool, ports.ErrNotRun, true}", "return Failure{Pool, ErrMayHaveRun, true}", failures, "TestClassify$",
	},

	// Panics, while a server is asked, and a reply of an impossible length, upon which go-redis panics or lacks memory.
	mutation{
		"a panic leaves its batch under way", "internal/adapters/redisstore/batch/ask.go",
		"	if reason := recover(); reason != nil {\n", "	if reason := any(nil); reason != nil {\n", batch, "TestBatcher_aPanic",
	},
	mutation{
		"a panic while a node is asked ends the process", "internal/adapters/redisstore/cluster/recover.go",
		"	if reason := recover(); reason != nil {\n", "	if reason := any(nil); reason != nil {\n",
		redisstore + "/cluster", "TestRecovering",
	},
	mutation{
		"a panic of a hook of a caller's cluster client ends the process", "internal/adapters/redisstore/cluster/call.go",
		"		if reason := recover(); reason != nil {\n", "		if reason := any(nil); reason != nil {\n",
		redisstore, "TestBorrowed_aPanic",
	},
	mutation{
		"a reply of an impossible length is read", "internal/adapters/redisstore/conn/lengths.go",
		"l.n > maxString || l.kind == '*' && l.n > maxElements {", "l.n > 1<<62 {", redisstore + "/conn", "TestLengths",
	},
	mutation{
		"a panic counts for the breaker", "internal/adapters/redisstore/failure/classify.go",
		"return Failure{Panic, ErrMayHaveRun, false}", "return Failure{Panic, ErrMayHaveRun, true}", batch, "TestBreaker_aPanic",
	},
	mutation{
		"a probe without a decision closes the breaker", "internal/adapters/redisstore/batch/probe.go",
		".health == healthAlive &&", ".health != healthFailing &&", batch, "TestBreaker_aPanic",
	},

	// Close, while calls wait for servers that do not answer.
	mutation{
		"attempts to connect outlive the store", "internal/adapters/redisstore/conn/dialer.go",
		"	defer context.AfterFunc(d.closed, cancel)()\n", "", redisstore, "TestClose.*/shards,_blackholed,_TLS:_false",
	},
	mutation{
		"connections to sentinels outlive the store", "internal/adapters/redisstore/conn/dialer.go",
		"func() { _ = conn.Close() }), plain", "func() {}), plain", redisstore, "TestClose.*/sentinel,_frozen,_TLS:_false",
	},
	mutation{
		"a closed store asks a caller's client", "internal/adapters/redisstore/manager.go",
		"	m.closed.Store(true)\n", "", redisstore, "TestBorrowed_afterClose",
	},

	// Passwords, permissions, certificates.
	mutation{
		"missing permissions are not reported", "internal/adapters/redisstore/batch/probe.go",
		"cause = b.withMissingPermissions(cause)", "_ = b.withMissingPermissions", redisstore, "TestACL_aMissingCommand",
	},
	mutation{
		"an untrusted certificate counts as a dial error", "internal/adapters/redisstore/failure/classify.go",
		"	case isTLSError(err):\n		return TLS\n	}\n	return Dial", "	}\n	return Dial",
		failures, "TestClassify$",
	},
	mutation{
		"certificates are not verified", "internal/adapters/redisstore/tls.go",
		"MinVersion: tls.VersionTLS12, ServerName", "MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, ServerName",
		faults, "TestFaults/untrusted_certificate",
	},

	// WRONGTYPE and corrupt values.
	mutation{
		"a key of another type counts as a failure of the shard", "internal/adapters/redisstore/batch/outcome.go",
		"		o.health = healthAlive\n", "		o.health, o.cause = healthFailing, err\n",
		batch, "TestBreaker_oneGroupsFault",
	},
	mutation{
		"a reset leaves a key of another type as it is", "internal/adapters/redisstore/script/general.lua",
		"    call('PEXPIREAT', key, 0)", "    --", redisstore, "TestBucketStore_oneRedis",
	},

	// Clusters and Sentinel.
	mutation{
		"redirects are not followed", "internal/adapters/redisstore/conn/client.go",
		"options.MaxRedirects = maxRedirects", "options.MaxRedirects = -1", redisstore, "TestCluster/redirects_are_followed",
	},
	mutation{
		"the slot table is not read after a failure", "internal/adapters/redisstore/cluster/cluster.go",
		"	if failed {\n		c.refresh()\n	}\n", "	_ = failed\n", redisstore, "TestCluster/a_replica_takes_over_from_a_primary_that_died",
	},
	mutation{
		"a cluster's nodes share a breaker", "internal/adapters/redisstore/cluster/cluster.go",
		"	if !c.known.Load() {\n		return c.entry", "	if c.known.Load() || !c.known.Load() {\n		return c.entry",
		redisstore, "TestCluster/a_dead_primary",
	},
	mutation{
		"a redirect counts as the reply of the node it names", "internal/adapters/redisstore/cluster/pipeline.go",
		"c.refused, err = err, nil", "c.refused = err", redisstore + "/cluster", "TestOnceCmd",
	},
	mutation{
		"a set is read that a release has emptied", "internal/adapters/redisstore/script/permits.lua",
		"last = call('ZCARD', limit.set) == 1", "last = false", redisstore, "TestCluster/a_key_may_empty",
	},
	mutation{
		"a group whose key was emptied while its slot moves is not asked for again", "internal/adapters/redisstore/script/script.go",
		" || redis.HasErrorPrefix(err, failure.EmptiedWhileMoving)", "", redisstore, "TestCluster/a_key_may_empty",
	},
	mutation{
		"a new primary behind Sentinel is not reported", "internal/adapters/redisstore/conn/dial.go",
		"				onFailover()\n", "				_ = onFailover\n", redisstore, "TestSentinel/a_replica_takes_over_from_a_primary_that_lives",
	},

	// Clocks, and the assignment of clients to shards.
	mutation{
		"a clock that differs is not reported", "internal/adapters/redisstore/batch/stats.go",
		"far := skew.Abs() > MaxSkew", "far := skew.Abs() > 1e6*MaxSkew", batch, "TestClocks",
	},

	// A request for several shards, one of which denies or does not answer.
	mutation{
		"what the others have taken is not refunded", "internal/app/multikey.go",
		"		refund.Op, refund.TakenAt = domain.OpUndo, b.results[i].Now\n", "		refund.Op = domain.OpPeek\n", app, "TestMultiKey_denialRefunds",
	},

	mutation{
		"an invalid request beside others has them take and refund", "internal/app/ratelimiter.go",
		"if atomic && failed != nil {", "if atomic && failed == nil && len(b.takes) == 0 {", app, "TestDecideAtomic_requestThatCannot",
	},
	mutation{
		"the error of a refund hides from Envoy what was decided", "internal/adapters/grpcenvoy/call.go",
		"refunded[i].Err != nil && len(c.takes) == 0 {", "refunded[i].Err != nil {", endToEnd, "TestEnvoy_noErrorHidesADecision",
	},

	// The process itself: file descriptors, signals, policies.
	mutation{
		"a lack of files ends the service", "internal/web/listener/listener.go",
		"if !temporary(err) {", "if temporary(err) || !temporary(err) {", httpfiber, "TestServe_outlives",
	},
	mutation{
		"a service that stops keeps its connections", "internal/adapters/httpfiber/httpserver/httpserver.go",
		"		ctx.SetConnectionClose()\n	}\n	active", "		_ = ctx\n	}\n	active", httpfiber, "TestShutdown_drainAnswers",
	},
	mutation{
		"a file that is half written is reported as broken", "internal/filewatch/live.go",
		"l.unconfirmed = err != nil && changed", "l.unconfirmed = err != nil && !changed", policyfile, "TestLive_followsEveryKind|TestLive_brokenFile",
	},
)

// refusals returns a mutation for each error that a server may return instead of a decision: it removes the error from
// the table of known errors.
func refusals() []mutation {
	var all []mutation
	row := func(word, kind, pkg, tests string) {
		all = append(all, mutation{
			"the error " + word + " is not known", "internal/adapters/redisstore/failure/classify.go",
			`	{"` + word + `", Failure{` + kind + ", ports.ErrNotRun, true}},\n", "", pkg, tests,
		})
	}
	said := func(name string) string { return "TestClassify_whatRealServersSay/" + name }
	row("BUSY", "Busy", redisstore, said("blocked_by_a_script"))
	row("READONLY", "ReadOnly", redisstore, said("replica$"))
	row("NOREPLICAS", "NoReplicas", redisstore, said("too_few_replicas"))
	row("MISCONF", "Misconf", redisstore, said("cannot_save"))
	row("LOADING", "Loading", redisstore, said("loading"))
	row("CLUSTERDOWN", "ClusterDown", redisstore, said("cluster_without_slots"))
	row("WRONGPASS", "Auth", redisstore, said("wrong_password"))
	row("NOPERM", "NoPerm", redisstore, said("no_permission_for_scripts"))
	row("ERR max number of clients reached", "MaxClients", failures, "TestClassify$") // a connection reset may arrive first
	row("MASTERDOWN", "MasterDown", failures, "TestClassify$")                        // a script is refused as READONLY first
	return all
}
