#!/usr/bin/env bash
# Makes sure that nginx is on the PATH, with the module that asks before it forwards: the tests of the doors start their
# own with the configuration in deploy/. Caddy needs no installing: they build it. Python runs the client in examples/.
set -euo pipefail
cd "$(dirname "$0")"

export PATH=$PATH:/usr/sbin
if ! command -v nginx >/dev/null; then ./apt-install.sh nginx; fi
if ! command -v python3 >/dev/null; then ./apt-install.sh python3; fi
if ! nginx -V 2>&1 | grep -q http_auth_request_module; then
  echo "this nginx ($(command -v nginx)) is built without http_auth_request_module" >&2
  exit 1
fi
