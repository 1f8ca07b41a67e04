#!/usr/bin/env bash
# Proves the lint rules: it copies the tree, breaks every depguard rule and every forbidigo pattern in the copy, lints once,
# and requires that each breach is reported under its rule. A rule without a breach here, or an adapter without a rule,
# fails too. Then it does the same with the list of private words and with the bounds of the import graph.
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

# A breach is a package of its own where that is possible, and imports an empty package below the layer in question: an
# import cycle, or a package that does not compile, would hide it.
adapters=(internal/adapters/*/)
for layer in internal/ports internal/ports/porttest internal/app internal/cli internal/settings test/invariant cmd/api "${adapters[@]%/}"; do
  mkdir -p "$copy/$layer/layer"
  echo "package layer" >"$copy/$layer/layer/layer.go"
done

breach internal/domain/breach go.uber.org/zap domain
breach internal/domain/breach "$module/internal/ports/layer" domain
breach internal/domain/breach "$module/internal/app/layer" domain-tests test
breach internal/ports go.uber.org/zap ports
breach internal/ports/breach "$module/internal/app/layer" ports-contracts
breach internal/ports/porttest "$module/internal/adapters/memstore/layer" ports-contracts
breach internal/app/breach "$module/internal/adapters/memstore/layer" app
breach internal/app/breach github.com/redis/go-redis/v9 app
breach internal/simulate/breach "$module/internal/app/layer" simulate
breach internal/simulate/breach go.uber.org/zap simulate
breach client/breach "$module/internal/domain" client
breach client/breach go.uber.org/zap client
breach velocityhttp/breach "$module/internal/app/layer" wrappers
breach velocitygrpc/breach "$module/internal/app/layer" wrappers test

breach internal/web/breach "$module/internal/adapters/httpfiber/layer" web
breach internal/web/breach "$module/internal/app/layer" web test
breach internal/web/breach github.com/valyala/fasthttp fiber-stays-in-httpfiber
breach internal/secret/breach go.uber.org/zap secret
breach internal/violation/breach "$module/internal/app/layer" violation
breach internal/filewatch/breach "$module/internal/app/layer" filewatch
breach internal/secretfile/breach "$module/internal/app/layer" secretfile

for path in "${adapters[@]}"; do
  adapter=$(basename "$path")
  sibling=$(basename "${adapters[0]}")
  if [[ $sibling == "$adapter" ]]; then sibling=$(basename "${adapters[1]}"); fi
  breach "internal/adapters/$adapter/breach" "$module/internal/adapters/$sibling/layer" "$adapter"
  breach "internal/adapters/$adapter/breach" "$module/internal/app/layer" "$adapter"
  breach "internal/adapters/$adapter/breach" "$module/internal/app/layer" "$adapter" test
done

breach internal/adapters/memstore/breach github.com/gofiber/fiber/v2 fiber-stays-in-httpfiber
breach internal/adapters/httpproxy/breach github.com/gofiber/fiber/v2 fiber-stays-in-httpfiber
breach internal/adapters/httpproxy/breach "$module/internal/adapters/httpfiber/layer" httpproxy
breach internal/adapters/memstore/breach github.com/valyala/fasthttp fiber-stays-in-httpfiber
breach internal/adapters/httpfiber/breach github.com/redis/go-redis/v9 redis-stays-in-redisstore
breach internal/adapters/httpfiber/breach github.com/prometheus/client_golang/prometheus prometheus-stays-in-telemetry
breach internal/adapters/telemetry/breach go.opentelemetry.io/otel opentelemetry-stays-in-tracing
breach internal/adapters/memstore/breach github.com/goccy/go-yaml yaml-stays-in-policyfile
breach internal/adapters/memstore/breach github.com/fsnotify/fsnotify watching-stays-in-filewatch
breach internal/adapters/httpfiber/breach github.com/envoyproxy/go-control-plane/envoy/type/v3 envoy-stays-in-grpcenvoy
breach internal/adapters/memstore/breach github.com/golang-jwt/jwt/v5 jwt-stays-in-jwtclaims
breach internal/adapters/policyfile/breach github.com/MicahParks/keyfunc/v3 jwt-stays-in-jwtclaims
breach internal/adapters/redisstore/breach github.com/google/wire wire-stays-in-main
breach internal/cli/breach github.com/kelseyhightower/envconfig envconfig-stays-in-settings
breach internal/adapters/redisstore/breach "$module/internal/settings/layer" settings-and-cli-stay-in-main
breach internal/app/breach "$module/internal/cli/layer" settings-and-cli-stay-in-main
breach test/breach "$module/cmd/api/layer" main-is-not-imported test
breach cmd/api/breach "$module/internal/ports/porttest/layer" test-support-stays-in-tests
breach cmd/api/breach github.com/stretchr/testify/require test-support-stays-in-tests
breach internal/adapters/redisstore/breach "$module/test/invariant/layer" test-support-stays-in-tests

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

# The words: each entry of the list, alone, must find its words, or for a regular expression one of the samples.
git init -q "$copy"
words=0
while IFS=$'\t' read -r entry say except; do
  if [[ -z $entry || $entry == '#'* ]]; then continue; fi
  words=$((words + 1))
  for dir in internal/app internal/adapters/memstore internal/adapters/redisstore; do
    if [[ $entry == /* ]]; then
      cp scripts/words-samples.txt "$copy/$dir/breach.lua"
    else
      for word in $entry; do printf '%s\na %s\n%s_x\nmy%s\n%sName\n' "$word" "${word^}" "$word" "${word^}" "$word"; done >"$copy/$dir/breach.lua"
    fi
  done
  found=$(WORDS=<(printf '%s\t%s\t%s\n' "$entry" "$say" "$except") "$copy/scripts/lint-words.sh" || true)
  found=$(grep -c '/breach.lua:' <<<"$found" || true)
  wanted=1
  if [[ $entry != /* ]]; then wanted=$((15 * $(wc -w <<<"$entry"))); fi
  if ((found < wanted)); then
    echo "words.txt: $entry: found $found times, not $wanted" >&2
    failures=$((failures + 1))
  fi
done <scripts/words.txt
echo "lint words: $words entries, all found"

# The import graph: a package of too many files, packages that import each other, a document that shows another graph.
graph() { (cd "$copy" && scripts/imports.sh "$@" 2>&1) || true; }
mkdir -p "$copy"/internal/many "$copy"/internal/{there,back}
for ((i = 0; i < 19; i++)); do echo "package many" >"$copy/internal/many/file$i.go"; done
printf '<!-- imports.sh: begin -->\n<!-- imports.sh: end -->\n' >"$copy/graph.md"
if ! grep -q 'internal/many has 19 Go files' <<<"$(graph)"; then echo "imports.sh: 19 files passed" >&2 && failures=1; fi
if ! grep -q "is not today's" <<<"$(graph -check graph.md)"; then echo "imports.sh: an old graph passed" >&2 && failures=1; fi
printf 'package there\n\nimport _ "%s/internal/back"\n' "$module" >"$copy/internal/there/there.go"
printf 'package back\n\nimport _ "%s/internal/there"\n' "$module" >"$copy/internal/back/back.go"
if ! grep -q 'import cycle' <<<"$(graph)"; then echo "imports.sh: a cycle passed" >&2 && failures=1; fi
if ((failures > 0)); then exit 1; fi
echo "import graph: 3 breaches, all reported"
