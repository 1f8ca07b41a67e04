#!/usr/bin/env bash
# Installs packages of the distribution with apt-get, as root or through sudo: apt-install.sh PACKAGE... It starts no
# service (RUNLEVEL=1 keeps Debian's packages from that), and waits for another apt-get to finish.
set -euo pipefail

if ! command -v apt-get >/dev/null; then
  echo "$* missing and there is no apt-get: install by other means" >&2
  exit 1
fi
apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o DPkg::Lock::Timeout=300)
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install as root: apt-get install $*" >&2
    exit 1
  fi
  apt=(sudo -n "${apt[@]}") # sudo would drop the variables
fi

echo "installing the distribution's packages with apt-get: $*"
"${apt[@]}" update -qq </dev/null
"${apt[@]}" install -y -qq --no-install-recommends "$@" </dev/null
