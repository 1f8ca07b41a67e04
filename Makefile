# Velocity: `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
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
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## serve on :3000, buckets in memory unless REDIS_ADDR is set
	go run ./cmd/api

.PHONY: build
build: ## build bin/api, static
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/api ./cmd/api

.PHONY: test-needs
test-needs: ## install redis-server from Debian's or Ubuntu's packages, if it is missing
	scripts/install-redis.sh

.PHONY: test
test: test-needs ## every test, against real Redis servers
	go test -timeout 10m ./...

.PHONY: race
race: test-needs ## every test, under the race detector
	go test -race -timeout 15m ./...

.PHONY: doors-needs
doors-needs: ## install a browser and Prometheus from the distribution's packages, if they are missing
	scripts/install-watchers.sh

.PHONY: screenshots
screenshots: test-needs doors-needs ## take the pictures of the live page in docs/ anew: two minutes, a chart must fill
	go test -v -tags doors -count=1 -timeout 5m -run TestLivePage_screenshots ./test -screenshots=../docs/screenshots

.PHONY: test-doors
test-doors: test-needs doors-needs ## the doors, with the real third-party programs in front of them
	go test -tags doors -timeout 10m ./test/...

.PHONY: test-faults
test-faults: test-needs ## every way in which a store fails, one at a time, held against the law; hostile clients in masses
	go test -count=1 -tags faults -timeout 10m -run 'TestFaults|TestLinearizable|TestIsolation|TestBudget' ./test/faults
	go test -count=1 -tags faults -timeout 5m -run 'TestHostile|TestOverload|TestReload|TestStart' ./test

.PHONY: soak
soak: test-needs ## faults at random, several at once, under load, judged by the law (DURATION=10m SEED=0)
	go test -count=1 -tags faults -timeout 0 -run TestSoak ./test/faults -v -soak.duration $(DURATION) -soak.seed $(SEED)

.PHONY: mutation
mutation: test-needs ## take each handling of failures out, in a copy, and see the suite notice
	go run ./test/mutation

.PHONY: reliability
reliability: test-needs ## measure the scoreboard in docs/reliability.md, all or ROWS=R01,R05: some 35 minutes (SOAK=150s; FUZZ=4m: R23, an hour)
	go run ./test/scoreboard -rows "$(ROWS)" -soak "$(SOAK)" -fuzz "$(FUZZ)" -out docs/reliability.md

.PHONY: helm-test
helm-test: ## render the Helm chart and decode it strictly; test/helm is a module of its own
	cd test/helm && go vet ./... && go test -count=1 ./...

.PHONY: test-long
test-long: test-needs ## ten million differential steps, 20,000 histories of the law, 1,000 reloads, long fuzzing (FUZZTIME=5m)
	go test -count=1 -timeout 1h -run TestDifferential -v ./internal/adapters/redisstore -differential.steps=10000000
	go test -count=1 -timeout 1h -run TestLaw_holds -v ./internal/domain -rapid.checks=20000
	go test -count=1 -timeout 1h -run TestConsistency -v ./test -consistency.requests=100000
	go test -count=1 -run TestReload_many -v ./test -reloads=1000
	scripts/fuzz.sh $(if $(filter file,$(origin FUZZTIME)),5m,$(FUZZTIME))

.PHONY: bench
bench: test-needs ## Velocity beside its peers in one run, some 12 minutes (BENCH_FLAGS=-quick: one)
	cd bench && go run . $(BENCH_FLAGS)

.PHONY: bench-docs
bench-docs: ## put the figures and charts of the last `make bench` into docs/
	scripts/bench-docs.sh bench/results

.PHONY: bench-test
bench-test: ## the benchmark's own arithmetic; bench/ is a module of its own, which ./... passes over
	cd bench && go vet ./... && go test ./...

.PHONY: metrics-cost
metrics-cost: ## what a scrape takes under 200,000 clients, and what metrics add to a request: a minute, on a quiet machine
	VELOCITY_EXACT=1 go test -v -count=1 -run TestMetrics_stayShortUnderManyClients ./test
	go test -run '^$$' -bench BenchmarkObserved -benchtime 2s -count 5 ./cmd/api

.PHONY: simulate-bench
simulate-bench: ## `api simulate` over a million lines beside gzip -dc | wc -l
	scripts/simulate-bench.sh

.PHONY: fuzz
fuzz: test-needs ## each fuzz target in turn (FUZZTIME=20s; KEEP=1 keeps what it finds interesting in test/fuzz-corpus.tar.gz)
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: ## golangci-lint, the rooms included
	$(TOOL) golangci-lint run ./...
	cd bench && go tool -modfile=../tools/go.mod golangci-lint run --config ../.golangci.yml ./...
	cd test/helm && go tool -modfile=../../tools/go.mod golangci-lint run --config ../../.golangci.yml ./...

.PHONY: lint-prove
lint-prove: ## break every rule of the rooms in a copy, and see it reported
	scripts/lint-rules-test.sh

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

.PHONY: docker-build
docker-build: ## build the image velocity:$(VERSION)
	docker build --build-arg VERSION=$(VERSION) -t velocity:$(VERSION) .

.PHONY: docker-check
docker-check: ## check Dockerfile and compose files without a Docker daemon (downloads the checkers)
	scripts/docker-check.sh

.PHONY: ci
ci: ## what continuous integration runs
	.ci/run
