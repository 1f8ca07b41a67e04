#!/usr/bin/env bash
# Installs redis-server from the distribution's packages unless it is on the PATH. The tests start their own servers, and need
# version 7.0 or newer.
set -euo pipefail

# Succeeds if the redis-server on the PATH is new enough.
is_new_enough() {
  local version
  version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\).*/\1/p')
  [[ -n $version ]] && ((version >= 7))
}

if command -v redis-server >/dev/null; then
  if is_new_enough; then exit 0; fi
  echo "redis-server is too old ($(redis-server --version)): the tests need 7.0 or newer" >&2
  exit 1
fi

"$(dirname "$0")/apt-install.sh" redis-server
if ! is_new_enough; then
  echo "the distribution's redis-server is too old ($(redis-server --version)): the tests need 7.0 or newer" >&2
  exit 1
fi
