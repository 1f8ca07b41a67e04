#!/usr/bin/env bash
# Prints the part of CHANGELOG.md about a version: release-notes.sh v1.2.3. Fails if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

number=${1:?a version such as v1.2.3}
number=${number#v}
awk -v head="## [$number]" '
  index($0, "## ") == 1 { inside = index($0, head) == 1; if (inside) found = 1; next }
  inside { print }
  END { exit !found }
' CHANGELOG.md || {
  echo "CHANGELOG.md: has no part [$number]" >&2
  exit 1
}
