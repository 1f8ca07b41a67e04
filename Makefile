# Velocity: `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VERSION ?= $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 20s
BENCH_FLAGS ?=
DURATION ?= 10m
SEED ?= 0
SOAK ?= 150s
ROWS ?=
FUZZ ?=
TOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## serve on :3000, buckets in memory unless REDIS_ADDR is set
	go run ./cmd/api

.PHONY: build
build: ## build bin/velocity, static
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/velocity ./cmd/api

.PHONY: test-needs
test-needs: ## install redis-server from Debian's or Ubuntu's packages, if it is missing
	scripts/install-redis.sh

.PHONY: test
test: test-needs ## every test that needs no other program than Redis (make lint vets); the second module checks the exchanges that the first records
	exchanges=$$(mktemp -d) && trap 'rm -rf "$$exchanges"' EXIT && export VELOCITY_EXCHANGES=$$exchanges && \
		go test -vet=off -timeout 10m ./... && cd test/integration && go test -vet=off -tags exchanges -timeout 10m ./...

.PHONY: race
# Skipped: long ones that do one thing after the other, and those of memory, which the detector needs for itself.
SKIP_RACE := TestDocs|TestCommandLine|TestEmbedding|TestSnippets|TestLinks|TestDifferential|TestParse_refusesBombs|TestNewLimit_noRateIsNearer
SKIP_RACE := $(SKIP_RACE)|TestAt_agreesWithAnOracle|TestTable_isSmall|TestCosts_longStreams|TestStreams_largeBodies|TestSecretKeys_noValue
SKIP_RACE := $(SKIP_RACE)|TestTable_keepsNoMemory|TestReadAhead_denialsFreeTheMemory
race: test-needs ## the tests under the race detector
	GORACE=atexit_sleep_ms=0 go test -race -vet=off -timeout 15m -skip '$(SKIP_RACE)' ./...

.PHONY: integration-needs
integration-needs: ## install nginx, HAProxy, Python, Chromium and Prometheus from the distribution's packages, if they are missing
	scripts/install-integration.sh

.PHONY: screenshots
screenshots: test-needs integration-needs ## take the screenshots of the live page in docs/ again: two minutes, a chart must fill
	cd test/integration && go test -v -tags integration -count=1 -timeout 5m -run TestLivePage_screenshots . -screenshots=../../docs/screenshots

.PHONY: test-integration
test-integration: test-needs integration-needs ## Velocity beside the real nginx, Caddy, HAProxy, Envoy's client, Chromium, Prometheus and Python
	cd test/integration && go test -tags integration -timeout 15m .

.PHONY: test-fresh
test-fresh: ## README's quick start, `make test` and `make test-integration` in an empty container: 15 minutes or more (INSTALL_ONLY=1: only the installing)
	scripts/test-fresh.sh $(if $(INSTALL_ONLY),-install-only)

.PHONY: container-images
container-images: ## pull the images that the Dockerfile and the compose files name, or make stand-ins where no registry answers
	scripts/container-images.sh Dockerfile docker-compose*.yml

.PHONY: test-containers
test-containers: container-images ## both compose files in a container engine; nodes, shards, networks and addresses fail (RUN=TestSharded)
	cd test/integration && go test -tags containers -count=1 -timeout 10m $(if $(RUN),-v -run '$(RUN)') ./containers

.PHONY: test-faults
test-faults: test-needs ## every failure of a store, one at a time, with the limit checked; many hostile clients; overrides under faults
	cd test/integration && go test -count=1 -tags faults -timeout 10m -run 'TestFaults|TestLinearizable|TestIsolation|TestBudget' ./faults
	go test -count=1 -tags faults -timeout 5m -run 'TestHostile|TestOverload|TestReload|TestStart' ./test
	go test -count=1 -timeout 10m -run 'TestOverrides_survive' ./internal/adapters/redisstore -overrides.changes=1000

.PHONY: test-memory
test-memory: test-needs ## floods of new clients in containers of 64, 128 and 512 MB: four minutes (SIZES=64: those alone; IMAGE=velocity: that image, not a new one; SHORT=1: half a minute a size; FULL=1: 26 million clients each, an hour)
	go test -count=1 -tags containers -timeout 0 -v ./test/containermemory $(if $(SIZES),-sizes $(SIZES)) $(if $(IMAGE),-image $(IMAGE)) $(if $(SHORT),-run TestMemory -checks 100000 -requests 5000) $(if $(FULL),-checks 20000000 -requests 2000000)

.PHONY: soak
soak: test-needs ## random faults, several at once, under load, with the limit checked (DURATION=10m SEED=0)
	cd test/integration && go test -count=1 -tags faults -timeout 0 -run TestSoak ./faults -v -soak.duration $(DURATION) -soak.seed $(SEED)

.PHONY: mutation
mutation: test-needs ## remove each failure handling in turn, in a copy, and require that a test fails
	go test -count=1 -timeout 0 -tags mutations -run TestMutations_areKilled ./test/mutation -v

.PHONY: reliability
reliability: test-needs ## measure the table of docs/reliability.md, all or ROWS=R01,R05: some 35 minutes (SOAK=150s; FUZZ=4m: R23, an hour)
	go run ./test/reliability -rows "$(ROWS)" -soak "$(SOAK)" -fuzz "$(FUZZ)" -out docs/reliability.md

.PHONY: helm-test
helm-test: ## render the Helm chart and decode it strictly; test/helm is a module of its own
	cd test/helm && go test -vet=off -count=1 ./...

.PHONY: test-long
test-long: test-needs ## ten million differential steps, a hot key 100 times, 20,000 random histories of a bucket, every time zone for 100 years, 1,000 reloads, how soon overrides spread, settled costs and 4 GB of streams, long fuzzing (FUZZTIME=5m)
	go test -count=1 -timeout 1h -run TestDifferential -v ./internal/adapters/redisstore/script -differential.steps=10000000
	go test -count=1 -timeout 1h -run 'TestHotKey|TestEqualRequests' -v ./internal/adapters/redisstore -hotkey.times=100 -equal.calls=5000
	go test -count=1 -timeout 1h -run TestApply_keepsTheLimit -v ./internal/domain -rapid.checks=20000
	go test -count=1 -timeout 1h -run 'TestAt_agreesWithAnOracle|TestAt_periodsFollowEachOther' -v ./internal/domain/calendar -calendar.all -rapid.checks=20000
	go test -count=1 -run TestOverrides_reachOtherNodesWithinASecond -v ./internal/adapters/redisstore -overrides.timed
	cd test/integration && go test -count=1 -timeout 1h -run TestConsistency -v . -consistency.requests=100000
	go test -count=1 -run TestReload_many -v ./test -reloads=1000
	go test -count=1 -timeout 1h -run 'TestCosts_(levels|long)' -v ./test/proxy -costs.requests=10000 -costs.megabytes=20
	scripts/fuzz.sh $(if $(filter file,$(origin FUZZTIME)),5m,$(FUZZTIME))

.PHONY: bench
bench: test-needs ## compare Velocity with other limiters in one run, some 20 minutes (BENCH_FLAGS=-quick: two minutes)
	cd bench && go run . $(BENCH_FLAGS)

.PHONY: bench-docs
bench-docs: ## write the figures and charts of the last `make bench` into docs/
	scripts/bench-docs.sh bench/results

.PHONY: bench-test
bench-test: ## the tests of the benchmark; bench/ is a module of its own
	cd bench && go test -vet=off ./...

.PHONY: metrics-cost
metrics-cost: ## measure a scrape under 200,000 clients, and what metrics add to a request: a minute, on an idle machine
	VELOCITY_EXACT=1 go test -v -count=1 -run TestMetrics_stayShortUnderManyClients ./test
	go test -run '^$$' -bench BenchmarkObserved -benchtime 2s -count 5 ./cmd/api

.PHONY: waiting-times
waiting-times: test-needs ## measure the spacing of requests that wait, and how soon a slot is free again: half a minute, on an idle machine
	VELOCITY_EXACT=1 go test -v -count=1 -run 'TestWaiting_isSpacedByTheRate|TestPermit_isFreeAtAnotherNode' ./test/proxy

.PHONY: simulate-bench
simulate-bench: ## time `velocity simulate` over a million lines, beside gzip -dc | wc -l
	scripts/simulate-bench.sh

.PHONY: fuzz
fuzz: test-needs ## run each fuzz target (FUZZTIME=20s; KEEP=1 adds the new inputs to test/fuzz-corpus.tar.gz)
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: ## golangci-lint in each module, private words, the import graph
	scripts/lint-words.sh
	scripts/imports.sh -check docs/architecture.md
	$(TOOL) golangci-lint run ./...
	cd bench && go tool -modfile=../tools/go.mod golangci-lint run --config ../.golangci.yml ./...
	cd test/integration && go tool -modfile=../../tools/go.mod golangci-lint run --config ../../.golangci.yml ./...
	cd test/helm && go tool -modfile=../../tools/go.mod golangci-lint run --config ../../.golangci.yml ./...

.PHONY: lint-prove
lint-prove: ## break every lint rule in a copy, and require that it is reported
	scripts/lint-rules-test.sh

.PHONY: imports
imports: ## print the import graph of packages (DOCS=1: write it into docs/architecture.md)
	scripts/imports.sh $(if $(DOCS),-write docs/architecture.md)

.PHONY: fmt
fmt: ## gofumpt and goimports
	$(TOOL) golangci-lint fmt ./...

.PHONY: generate
generate: ## wire_gen.go
	$(TOOL) wire gen ./cmd/api

.PHONY: generate-check
generate-check: ## fail if generated code is not what `make generate` writes
	$(TOOL) wire diff ./cmd/api

.PHONY: vuln
vuln: ## known vulnerabilities that the code reaches
	scripts/vuln.sh

.PHONY: release
release: ## build the static binaries of each platform, and SHA256SUMS, into dist/ (VERSION=v1.2.3)
	VERSION=$(VERSION) scripts/release.sh

.PHONY: release-check
release-check: ## build dist/ a second time, elsewhere and without the build cache, and require the same bytes
	VERSION=$(VERSION) scripts/release.sh -check

.PHONY: docker-build
docker-build: ## build the image velocity:$(VERSION)
	docker build --build-arg VERSION=$(VERSION) -t velocity:$(VERSION) .

.PHONY: docker-check
docker-check: ## check Dockerfile and compose files without a Docker daemon (downloads the checkers)
	scripts/docker-check.sh

.PHONY: ci
ci: ## what continuous integration runs
	.ci/run
