#!/usr/bin/env bash
# Proves that the lint rules hold the walls: it copies the tree, breaks every depguard rule and every forbidigo
# pattern in the copy, lints once, and requires that each breach is reported under its rule. A rule without a breach
# here, or an adapter without a rule, fails too.
set -euo pipefail
cd "$(dirname "$0")/.."

read -r -a lint <<<"${GOLANGCI_LINT:-go tool -modfile=tools/go.mod golangci-lint}"
module=$(go list -m)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files --cached --others --exclude-standard -z |
  while IFS= read -r -d '' file; do if [[ -f $file ]]; then printf '%s\0' "$file"; fi; done |
  xargs -0 cp --parents -t "$copy"

declare -a wanted=() # "<file>\t<text that its report contains>"
declare -A proved=()
n=0

# breach DIR IMPORT RULE [TEST] plants a file in DIR that imports IMPORT, which RULE forbids; with TEST, a test file.
breach() {
  local dir=$1 import=$2 rule=$3 suffix=${4:+_test} file
  n=$((n + 1))
  file=$dir/breach$n$suffix.go
  mkdir -p "$copy/$dir"
  printf 'package %s\n\nimport _ "%s"\n' "$(basename "$dir")" "$import" >"$copy/$file"
  wanted+=("$file"$'\t'"import '$import' is not allowed from list '$rule'")
  proved[$rule]=1
}

# clock DIR CALL plants a call of package time that forbidigo forbids in DIR.
clock() {
  local dir=$1 call=$2 file
  n=$((n + 1))
  file=$dir/breach$n.go
  mkdir -p "$copy/$dir"
  printf 'package %s\n\nimport "time"\n\nvar _ = func() { _ = any(time.%s) }\n' "$(basename "$dir")" "$call" >"$copy/$file"
  wanted+=("$file"$'\t'"use of \`time.$call\` forbidden")
}

# Breaches sit in packages of their own where they can, and import an empty package of the room in question, so that
# neither an import cycle nor a room that does not compile hides them.
adapters=(internal/adapters/*/)
for room in internal/ports internal/ports/porttest internal/app cmd/api "${adapters[@]%/}"; do
  mkdir -p "$copy/$room/room"
  echo "package room" >"$copy/$room/room/room.go"
done

breach internal/domain/breach go.uber.org/zap domain
breach internal/domain/breach "$module/internal/ports/room" domain
breach internal/domain/breach "$module/internal/app/room" domain-tests test
breach internal/ports go.uber.org/zap ports
breach internal/ports/breach "$module/internal/app/room" ports-contracts
breach internal/ports/porttest "$module/internal/adapters/memstore/room" ports-contracts
breach internal/app/breach "$module/internal/adapters/memstore/room" app
breach internal/app/breach github.com/redis/go-redis/v9 app
breach internal/simulate/breach "$module/internal/app/room" simulate
breach internal/simulate/breach go.uber.org/zap simulate
breach client/breach "$module/internal/domain" client
breach client/breach go.uber.org/zap client
breach velocityhttp/breach "$module/internal/app/room" faces
breach velocitygrpc/breach "$module/internal/app/room" faces test

for path in "${adapters[@]}"; do
  adapter=$(basename "$path")
  sibling=$(basename "${adapters[0]}")
  if [[ $sibling == "$adapter" ]]; then sibling=$(basename "${adapters[1]}"); fi
  breach "internal/adapters/$adapter/breach" "$module/internal/adapters/$sibling/room" "$adapter"
  breach "internal/adapters/$adapter/breach" "$module/internal/app/room" "$adapter"
  breach "internal/adapters/$adapter/breach" "$module/internal/app/room" "$adapter" test
done

breach internal/adapters/memstore/breach github.com/gofiber/fiber/v2 fiber-stays-in-httpfiber
breach internal/adapters/memstore/breach github.com/valyala/fasthttp fiber-stays-in-httpfiber
breach internal/adapters/httpfiber/breach github.com/redis/go-redis/v9 redis-stays-in-redisstore
breach internal/adapters/httpfiber/breach github.com/prometheus/client_golang/prometheus prometheus-stays-in-telemetry
breach internal/adapters/telemetry/breach go.opentelemetry.io/otel opentelemetry-stays-in-tracing
breach internal/adapters/memstore/breach github.com/goccy/go-yaml yaml-stays-in-policyfile
breach internal/adapters/memstore/breach github.com/fsnotify/fsnotify yaml-stays-in-policyfile
breach internal/adapters/httpfiber/breach github.com/envoyproxy/go-control-plane/envoy/type/v3 envoy-stays-in-grpcenvoy
breach internal/adapters/redisstore/breach github.com/google/wire wire-stays-in-main
breach internal/adapters/redisstore/breach github.com/kelseyhightower/envconfig wire-stays-in-main
breach test/breach "$module/cmd/api/room" main-is-not-imported test
breach cmd/api/breach "$module/internal/ports/porttest/room" test-support-stays-in-tests
breach cmd/api/breach github.com/stretchr/testify/require test-support-stays-in-tests

for call in Now Since Until Sleep After Tick; do
  clock internal/domain/breach "$call"
  clock internal/app/breach "$call"
done

report=$(cd "$copy" && "${lint[@]}" run --output.text.print-issued-lines=false \
  --allow-parallel-runners ./... 2>&1) && {
  echo "lint passed over a tree with $n breaches" >&2
  exit 1
}

failures=0
for want in "${wanted[@]}"; do
  file=${want%%$'\t'*} text=${want#*$'\t'}
  if ! grep -F -- "$file:" <<<"$report" | grep -qF -- "$text"; then
    echo "not reported: $file: $text" >&2
    failures=$((failures + 1))
  fi
done

rules=$(sed -n '/^    depguard:/,/^    exhaustive:/s/^        \([a-z-]*\):$/\1/p' .golangci.yml)
for rule in $rules; do
  if [[ -z ${proved[$rule]:-} ]]; then
    echo "rule $rule is never broken in $0" >&2
    failures=$((failures + 1))
  fi
done

if ((failures > 0)); then
  printf '%s\n' "$report" >&2
  exit 1
fi
echo "lint rules: $n breaches of ${#proved[@]} depguard rules and of forbidigo, all reported"
