#!/usr/bin/env bash
# Makes sure that the programs that watch a running service are on the PATH, for the tests behind the tag doors: a
# browser (Chromium) and Prometheus with promtool.
set -euo pipefail

packages=()
if ! command -v chromium >/dev/null; then packages+=(chromium); fi
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then packages+=(prometheus); fi
if ((${#packages[@]} == 0)); then exit 0; fi

if ! command -v apt-get >/dev/null; then
  echo "missing: ${packages[*]}; there is no apt-get: install them by other means" >&2
  exit 1
fi
apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "missing: ${packages[*]}; install them as root: apt-get install ${packages[*]}" >&2
    exit 1
  fi
  apt=(sudo -n "${apt[@]}") # sudo would drop the variable
fi

echo "installing the distribution's packages ${packages[*]} with apt-get"
"${apt[@]}" update -qq </dev/null
"${apt[@]}" install -y -qq --no-install-recommends "${packages[@]}" </dev/null
for command in chromium prometheus promtool; do command -v "$command" >/dev/null; done
