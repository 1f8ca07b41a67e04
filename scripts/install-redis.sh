#!/usr/bin/env bash
# Makes sure that redis-server 7.0 or newer is on the PATH: the tests start their own servers with it.
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

if ! command -v apt-get >/dev/null; then
  echo "redis-server is missing and there is no apt-get: install Redis 7.0 or newer, or Valkey's redis-server" >&2
  exit 1
fi
apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "redis-server is missing: install it as root: apt-get install redis-server" >&2
    exit 1
  fi
  apt=(sudo -n "${apt[@]}") # sudo would drop the variable
fi

echo "redis-server is missing: installing the distribution's package redis-server with apt-get"
"${apt[@]}" update -qq </dev/null
"${apt[@]}" install -y -qq --no-install-recommends redis-server </dev/null
if ! is_new_enough; then
  echo "the distribution's redis-server is too old ($(redis-server --version)): the tests need 7.0 or newer" >&2
  exit 1
fi
