#!/usr/bin/env bash
# Runs govulncheck. Exit status: 0 nothing found, 3 vulnerabilities found, 4 not run because the database of
# vulnerabilities is out of reach, anything else: govulncheck's own.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

report=$(go tool -modfile=tools/go.mod govulncheck ./... 2>&1)
status=$?
printf '%s\n' "$report"
if ((status != 0)) && grep -qE 'fetching vulnerabilities|vuln\.go\.dev' <<<"$report" && ! grep -q '^Vulnerability #' <<<"$report"; then
  echo "govulncheck: not run: its database, https://vuln.go.dev, is out of reach" >&2
  exit 4
fi
exit "$status"
