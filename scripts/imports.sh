#!/usr/bin/env bash
# Prints the import graph of the module's packages: for each package its number of Go files (without tests and generated files),
# what it is, and the packages of the module that it imports. Every import points up: to a package above.
#
#   imports.sh               print the graph
#   imports.sh -check FILE   fail, too, if FILE does not hold this graph between its two marker lines
#   imports.sh -write FILE   put the graph between the marker lines of FILE
#
# Fails if imports form a cycle (go list refuses that), or if a package outside bench/ has more than 18 files.
set -euo pipefail
cd "$(dirname "$0")/.."

most=18
begin='<!-- imports.sh: begin -->' end='<!-- imports.sh: end -->'

# files prints "PATH COUNT" of every folder that holds Go files, whatever module or build tag they belong to.
files() {
  git ls-files --cached --others --exclude-standard '*.go' ':!:*_test.go' | while IFS= read -r file; do
    if [[ -f $file ]] && ! grep -q '^// Code generated .* DO NOT EDIT\.$' "$file"; then dirname "$file"; fi
  done | sort | uniq -c | awk '{print $2, $1}'
}

counts=$(files)
module=$(go list -m)
graph=$(go list -f '{{.ImportPath}} {{join .Imports " "}}' ./... | awk -v module="$module" -v counts="$counts" '
  function short(path) { return path == module ? "." : substr(path, length(module) + 2) }
  BEGIN {
    n = split(counts, lines, "\n")
    for (i = 1; i <= n; i++) { split(lines[i], f, " "); count[f[1]] = f[2] }
  }
  {
    p = short($1); left[p] = 1
    for (i = 2; i <= NF; i++) if (index($i, module "/") == 1 || $i == module) needs[p] = needs[p] " " short($i)
  }
  END {
    # The level of a package is one above the highest level that it imports.
    for (level = 0; length(left) > 0; level++) {
      for (p in left) {
        ready = 1; n = split(needs[p], imports, " ")
        for (i = 1; i <= n; i++) if (imports[i] in left) ready = 0
        if (ready) now[p] = 1
      }
      for (p in now) {
        delete left[p]
        if (count[p]) printf "%d %s %d%s\n", level, p, count[p], needs[p]
      }
      delete now
    }
  }' | LC_ALL=C sort -k1,1n -k2,2 | awk -v module="$module" '
  NR == FNR { # the first sentence of a package comment, without the words "Package NAME"
    path = $1 == module ? "." : substr($1, length(module) + 2)
    sub(/^[^ ]+ (Package|Command) [^ ]+ /, ""); doc[path] = $0
    next
  }
  {
    printf "%s (%d): %s\n", $2, $3, doc[$2]
    line = ""
    for (i = 4; i <= NF; i++) {
      if (length(line) + length($i) > 110) { print line; line = "" }
      line = (line == "" ? "      " : line) " " $i
    }
    if (line != "") print line
  }' <(go list -f '{{.ImportPath}} {{.Doc}}' ./...) -)

failed=0
while read -r dir count; do
  if [[ $dir != bench/* ]] && ((count > most)); then
    echo "imports.sh: $dir has $count Go files, more than $most: it holds several ideas" >&2
    failed=1
  fi
done <<<"$counts"

case ${1:-} in
"") printf '%s\n' "$graph" ;;
-check)
  if ! diff <(sed -n "/^$begin\$/,/^$end\$/p" "$2") <(printf '%s\n' "$begin" '```text' "$graph" '```' "$end") >&2; then
    echo "imports.sh: the graph in $2 is not today's: scripts/imports.sh -write $2" >&2
    failed=1
  fi
  ;;
-write)
  if ! grep -qx "$begin" "$2" || ! grep -qx "$end" "$2"; then
    echo "imports.sh: $2 lacks the lines $begin and $end" >&2
    exit 1
  fi
  new=$(awk -v begin="$begin" -v end="$end" '
    NR == FNR { graph = graph $0 "\n"; next }
    $0 == begin { print; printf "```text\n%s```\n", graph; skip = 1 }
    $0 == end { skip = 0 }
    !skip && $0 != begin { print }' <(printf '%s\n' "$graph") "$2")
  printf '%s\n' "$new" >"$2"
  ;;
*)
  echo "usage: imports.sh [-check FILE | -write FILE]" >&2
  exit 2
  ;;
esac
exit $failed
