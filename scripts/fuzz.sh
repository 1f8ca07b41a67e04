#!/usr/bin/env bash
# Runs each fuzz target of the module for the given time (a go test -fuzztime value: 20s, 100000x), and prints the number of
# executions. It starts with the inputs in test/fuzz-corpus.tar.gz, and with KEEP=1 adds the new inputs of this run to that
# file. Inputs that fail are in the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

time_each=${1:?usage: fuzz.sh TIME}
corpus=test/fuzz-corpus.tar.gz
cache=$(go env GOCACHE)/fuzz
mkdir -p "$cache"
tar -xzf "$corpus" -C "$cache"
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
if [[ ${KEEP:-} == 1 ]]; then
  tar -czf "$corpus" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$cache" "$(go list -m)"
fi
