#!/usr/bin/env bash
# Writes docs/benchmarks.md, docs/benchmarks.json, docs/charts/ and the comparisons of README.md from the results of a benchmark run.
set -euo pipefail
results=$(realpath "${1:?usage: bench-docs.sh FOLDER}")
cd "$(dirname "$0")/.."

heading='## Performance' after='[docs/benchmarks.md](docs/benchmarks.md) has every figure'
if ! grep -qxF "$heading" README.md || ! grep -qF "$after" README.md; then
  echo "bench-docs.sh: README.md needs the lines \"$heading\" and \"$after...\": the comparisons come between them" >&2
  exit 1
fi

mkdir -p docs/charts
rm -f docs/charts/*.svg
cp "$results"/charts/*.svg docs/charts/
sed -E "s/ -out [^\" ]+//" "$results/report.json" >docs/benchmarks.json
{
  cat <<'EOF'
# Benchmarks

For whoever compares limiters, or plans machines: Velocity and others, measured in one run on one machine. `make bench` repeats the run: it starts what it needs, and
takes some twenty minutes on two cores. `make bench-docs` then writes this page. Absolute figures hold for this machine;
compare the ratios. Four comparisons come first, then every figure. Targets that were not reached are listed with those that were.

EOF
  # Without the report's own title, and without the name of the folder that it was written to.
  tail -n +3 "$results/report.md" | sed -E '1s/ -out [^` ]+//'
} >docs/benchmarks.md

readme=$(
  sed "/^$heading\$/q" README.md
  echo
  sed 's|"charts/|"docs/charts/|g' "$results/front.md"
  awk -v after="$after" 'index($0, after) == 1 { found = 1 } found' README.md
)
printf '%s\n' "$readme" >README.md
echo "docs/benchmarks.md and README.md hold the results of $results"
