#!/usr/bin/env bash
# Replaces the time-zone database of internal/domain/calendar with the one of the Go toolchain (GOROOT/lib/time), and
# records its version and digest beside it. The data is in the public domain: https://www.iana.org/time-zones
set -euo pipefail
cd "$(dirname "$0")/../internal/domain/calendar"

from=$(go env GOROOT)/lib/time
version=$(sed -n 's/^DATA=//p' "$from/update.bash")
if [[ -z $version ]]; then
  echo "update-zones.sh: $from/update.bash names no version" >&2
  exit 1
fi
cp "$from/zoneinfo.zip" zoneinfo.zip
chmod 644 zoneinfo.zip
echo "$version $(sha256sum zoneinfo.zip | cut -d' ' -f1)" >zoneinfo.version
cat zoneinfo.version
