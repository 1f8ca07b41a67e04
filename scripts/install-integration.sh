#!/usr/bin/env bash
# Installs the programs that `make test-integration` runs beside Velocity, from the distribution's packages, unless they are on
# the PATH: nginx, HAProxy, Python, Chromium, Prometheus and promtool. Caddy needs no package: the tests build it.
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:/usr/sbin # where Debian puts nginx and HAProxy

missing() {
  local program
  for program in nginx haproxy python3 chromium prometheus promtool; do
    if ! command -v $program >/dev/null; then echo "${program/promtool/prometheus}"; fi
  done | sort -u
}

mapfile -t packages < <(missing)
if ((${#packages[@]} > 0)); then ./apt-install.sh "${packages[@]}"; fi
mapfile -t packages < <(missing)
if ((${#packages[@]} > 0)); then
  echo "installed, and not on the PATH: ${packages[*]}" >&2
  exit 1
fi
# Not by a pipe into grep -q: grep would end first, and with pipefail the program's SIGPIPE would count.
if [[ $(nginx -V 2>&1) != *http_auth_request_module* ]]; then
  echo "this nginx ($(command -v nginx)) is built without http_auth_request_module, which deploy/nginx needs" >&2
  exit 1
fi
if [[ $(haproxy -vv 2>&1) != *USE_LUA=1* ]]; then
  echo "this HAProxy ($(command -v haproxy)) is built without Lua, which deploy/haproxy needs" >&2
  exit 1
fi
