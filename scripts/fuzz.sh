#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each (a go test -fuzztime value: 20s, 100000x).
set -euo pipefail
cd "$(dirname "$0")/.."

time_each=${1:?usage: fuzz.sh TIME}
count=0
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
  targets=$(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
  for target in $targets; do
    echo "== $package $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time_each" "$package"
    count=$((count + 1))
  done
done
echo "fuzz: $count targets, $time_each each"
if ((count == 0)); then exit 1; fi
