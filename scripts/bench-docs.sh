#!/usr/bin/env bash
# Makes docs/benchmarks.md, docs/benchmarks.json and docs/charts/ of the results of a benchmark run.
set -euo pipefail
results=$(realpath "${1:?usage: bench-docs.sh FOLDER}")
cd "$(dirname "$0")/.."

mkdir -p docs/charts
rm -f docs/charts/*.svg
cp "$results"/charts/*.svg docs/charts/
sed -E "s/ -out [^\" ]+//" "$results/report.json" >docs/benchmarks.json
{
  cat <<'EOF'
# Benchmarks

Velocity beside its peers, in one run on one machine. `make bench` repeats it: it starts what it needs, takes some
twelve minutes on two cores, and `make bench-docs` makes this page of what it wrote. Absolute figures are this machine's;
ratios are what to compare. Marks that were not reached stand with those that were.

EOF
  # Without the report's own title, and without the folder that it was written to.
  tail -n +3 "$results/report.md" | sed -E '1s/ -out [^` ]+//'
} >docs/benchmarks.md
echo "docs/benchmarks.md is of $results"
