#!/usr/bin/env bash
# Compares `velocity simulate` over a log of a million lines with `gzip -dc LOG | wc -l`, which only reads the same file, and
# fails if its median time is more than 8 times as long. The two run by turns. Run it on an idle machine.
set -euo pipefail
cd "$(dirname "$0")/.."

lines=${1:-1000000} rounds=${2:-5} bound=8
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -trimpath -o "$dir/velocity" ./cmd/api
go build -o "$dir/accesslog" ./scripts/accesslog
cat >"$dir/policies.yaml" <<'POLICIES'
policies:
  - name: login
    match: { methods: [POST], path: /login }
    limits: [ { rate: 5/m, capacity: 5 } ]
    refund_on: [2xx]
  - name: search
    match: { methods: [GET], path: "/api/search/**" }
    limits: [ { name: burst, rate: 1/s, capacity: 10 }, { name: daily, rate: 1000/24h, capacity: 1000 } ]
  - name: default
    match: { path: "/**" }
    limits: [ { rate: 1/s, capacity: 20 } ]
POLICIES

# seconds COMMAND prints how long it takes.
seconds() {
  local start=$EPOCHREALTIME
  "$@" >/dev/null
  echo "$start $EPOCHREALTIME" | awk '{printf "%.3f\n", $2 - $1}'
}
read_only() { gzip -dc "$1" | wc -l; }
simulate() { "$dir/velocity" simulate -policies "$dir/policies.yaml" "$1"; }
median() { sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }

failed=0
printf '%-9s %9s %12s %12s %6s\n' format bytes 'gzip|wc s' 'simulate s' ratio
for format in combined nginx caddy; do
  log=$dir/$format.log.gz
  "$dir/accesslog" -lines "$lines" -format "$format" | gzip >"$log"
  base=() ours=()
  read_only "$log" >/dev/null # so that the file is in memory for both
  for ((i = 0; i < rounds; i++)); do
    base+=("$(seconds read_only "$log")")
    ours+=("$(seconds simulate "$log")")
  done
  b=$(printf '%s\n' "${base[@]}" | median) o=$(printf '%s\n' "${ours[@]}" | median)
  ratio=$(awk -v o="$o" -v b="$b" 'BEGIN {printf "%.2f", o / b}')
  printf '%-9s %9d %12s %12s %6s\n' "$format" "$(stat -c %s "$log")" "$b" "$o" "$ratio"
  if awk -v r="$ratio" -v m="$bound" 'BEGIN {exit !(r > m)}'; then failed=1; fi
  rm "$log"
done
if ((failed)); then
  echo "over the bound of $bound" >&2
  exit 1
fi
