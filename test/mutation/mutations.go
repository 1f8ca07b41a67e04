package main

const (
	redisstore = "./internal/adapters/redisstore"
	app        = "./internal/app"
	faults     = "./test/faults"
	endToEnd   = "./test"
)

// mutations are all handlings that are taken out, one at a time.
var mutations = []mutation{
	{
		"scripts are sent again after a lost answer", "internal/adapters/redisstore/client.go",
		"MaxRetries: -1,", "MaxRetries: 3,", redisstore, "TestTakeMany_aLostOrGarbledAnswer",
	},
	{
		"scripts are sent again after a lost answer, as the law sees it", "internal/adapters/redisstore/client.go",
		"MaxRetries: -1,", "MaxRetries: 3,", faults, "TestFaults/some_answers_cut_in_the_middle",
	},
	{
		"a cluster's scripts are sent again", "internal/adapters/redisstore/clusterbatch.go",
		"func (*onceCmd) NoRetry() bool { return true }", "func (*onceCmd) NoRetry() bool { return false }",
		redisstore, "TestCluster",
	},
	{
		"a read-only server runs the script", "internal/adapters/redisstore/take.lua",
		"#!lua\n", "-- lua\n", redisstore, "TestTakeMany_serversThatCannotWrite|TestScript_shipped",
	},
	{
		"a script that a server lost is not sent again", "internal/adapters/redisstore/script.go",
		`return redis.HasErrorPrefix(err, "NOSCRIPT")`, `return redis.HasErrorPrefix(err, "NONE")`, faults, "TestFaults/SCRIPT_FLUSH",
	},
	{
		"the breaker never opens after failures in a row", "internal/adapters/redisstore/breaker.go",
		"if g.inARow.Add(1) >= tripInARow {", "if g.inARow.Add(1) < 0 {", redisstore, "TestBreaker",
	},
	{
		"the breaker never closes", "internal/adapters/redisstore/breaker.go",
		"	g.circuit.Close()\n	g.refusal.Store(nil)\n", "	g.circuit.Close()\n", faults, "TestFaults/refused",
	},
	{
		"an open breaker lets everything through", "internal/adapters/redisstore/breaker.go",
		"	if r == nil {\n		return nil\n	}\n	g.counts.refused", "	if r == nil || groups > 0 {\n		return nil\n	}\n	g.counts.refused",
		redisstore, "TestBreaker",
	},
	{
		"a full server does not trip", "internal/adapters/redisstore/errors.go",
		`{"OOM", failure{ports.FailureOOM, notRun, true}}`, `{"OOM", failure{ports.FailureOOM, notRun, false}}`, redisstore, "TestClassify",
	},
	{
		"the queue has no bound", "internal/adapters/redisstore/batcher.go",
		"if b.queued+len(c.groups) > maxQueued {", "if b.queued+len(c.groups) > 1<<40 {", redisstore, "TestBatcher",
	},
	{
		"our own overload opens the gate", "internal/app/settle.go",
		"		mode = domain.FailLocal\n	}\n	switch op", "		mode = domain.FailOpen\n	}\n	switch op", app, "TestDecide_failureModes|TestGroups",
	},
	{
		"fail-closed lets through", "internal/app/settle.go",
		"	case mode == domain.FailOpen:\n		w.states[i] = statePassedOpen", "	case mode != domain.FailLocal:\n		w.states[i] = statePassedOpen",
		faults, "TestFaults/refused",
	},
	{
		"a bucket ahead of the clock stays ahead", "internal/adapters/redisstore/take.lua",
		"if spends or (skewed and op ~= '1') then", "if spends then", faults, "TestFaults/clock_an_hour_back",
	},
	{
		"an expiry has nothing to spare", "internal/adapters/redisstore/take.lua",
		"    slack_us = 1000000\n", "    slack_us = 0\n", redisstore, "TestScript_aStall",
	},
	{
		"one group's error ends the script", "internal/adapters/redisstore/take.lua",
		"local ok, failure = pcall(decide_all)", "local ok, failure = true, decide_all()", redisstore, "TestScript",
	},
	{
		"the shortcut forgets no refund", "internal/app/shortcut.go",
		"		s.generation(req.Key).Add(1)\n		return\n", "		return\n", app, "TestShortcut",
	},
	{
		"a denial is remembered for ever", "internal/app/shortcut.go",
		"now-d.sent > s.maxAge", "now < d.sent", app, "TestShortcut",
	},
	{
		"the first address of X-Forwarded-For counts", "internal/adapters/httpfiber/clientaddr.go",
		"!addr.IsValid() || !p.Trusts(addr)", "!addr.IsValid() || p.Trusts(addr)", endToEnd, "TestHostile_whatStandsBefore",
	},
}
