#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each (a go test -fuzztime value: 20s, 100000x), and sums what
# they executed. What the fuzzer finds interesting is kept in Go's cache, and a crash in the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

time_each=${1:?usage: fuzz.sh TIME}
count=0 executions=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
  targets=$(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
  for target in $targets; do
    echo "== $package $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time_each" "$package" | tee "$log"
    count=$((count + 1))
    last=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    executions=$((executions + ${last:-0}))
  done
done
echo "fuzz: $executions executions of $count targets, $time_each each"
if ((count == 0)); then exit 1; fi
