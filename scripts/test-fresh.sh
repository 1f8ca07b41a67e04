#!/usr/bin/env bash
# Tries this checkout on a fresh machine: in a container that has Go, gcc, make and git and nothing else.
#
#   test-fresh.sh                 README's two commands (go run ./cmd/api, make test), then make test-integration: 15 minutes
#   test-fresh.sh -install-only   only what those and the other test targets install: a container for each, a few minutes
#   test-fresh.sh -quick-start    only go run ./cmd/api
#
# Needs Docker, debootstrap (installed if it is missing) and root for it. The base image is made of the distribution's packages
# and of this machine's Go, and is kept as velocity-fresh:base until its recipe below changes. FRESH_NETWORK=host lets
# containers use the machine's own network, where the engine's network does not reach the registries.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian-root.sh

image=velocity-fresh:base
packages=ca-certificates,gcc,libc6-dev,make,git

# installs TARGET prints the targets that `make TARGET` lists as its needs.
installs() { make -pnq "$1" 2>/dev/null | sed -n "s/^$1: *//p"; }

# needs TARGET PROGRAM... runs what `make TARGET` lists as its needs, and requires that the programs are there then and were
# not before.
needs() {
  local target=$1 program installs
  shift
  for program; do
    if command -v "$program" >/dev/null; then echo "$program is in the base image: nothing is proved" >&2 && return 1; fi
  done
  read -r -a installs < <(installs "$target")
  if ((${#installs[@]} > 0)) && ! make "${installs[@]}" >/tmp/install.log 2>&1; then
    cat /tmp/install.log
    return 1
  fi
  for program; do
    if ! command -v "$program"; then echo "make $target does not install $program" >&2 && return 1; fi
  done
}

# answer prints the status of one request to the service.
answer() {
  (
    exec 3<>/dev/tcp/127.0.0.1/3000 || exit
    printf 'GET /api/resource HTTP/1.1\r\nHost: localhost:3000\r\nConnection: close\r\n\r\n' >&3
    read -r _ status _ <&3
    echo "$status"
  ) 2>/dev/null
}

# quick_start runs README's first command, and asks until the limit denies.
quick_start() {
  local pid i statuses=()
  set -m # a process group for go run and its child
  go run ./cmd/api >/tmp/api.log 2>&1 &
  pid=$!
  set +m
  for ((i = 0; i < 600; i++)); do
    if answer >/dev/null; then break; fi
    if ! kill -0 $pid 2>/dev/null; then break; fi
    sleep 1
  done
  sleep 2.5 # until the bucket is full again
  for ((i = 0; i < 20; i++)); do statuses+=("$(answer)"); done
  kill -- -$pid
  wait $pid || true
  echo "go run ./cmd/api answered: ${statuses[*]}"
  if [[ ${statuses[0]} != 200 || ${statuses[9]} != 200 || " ${statuses[*]} " != *" 429 "* ]]; then
    cat /tmp/api.log
    return 1
  fi
}

# whole is what a new user and a contributor run.
whole() {
  quick_start
  make test
  make test-integration
}

# recipe DIR makes the root folder of the base image.
recipe() {
  debian_root "$1" "$packages"
  as_root cp -a "$(go env GOROOT)" "$1/usr/local/go"
  echo force-unsafe-io | as_root tee "$1/etc/dpkg/dpkg.cfg.d/fresh" >/dev/null # no fsync of every file
  echo 'Acquire::https::CaInfo "/etc/ssl/machine.crt";' | as_root tee "$1/etc/apt/apt.conf.d/99machine" >/dev/null
}

# build_image makes the base image, unless there is one of this recipe and Go.
build_image() {
  local wanted
  wanted=$( (declare -f debian_root recipe && echo "$packages" && go version) | sha256sum | cut -c1-16)
  if [[ $(docker image inspect -f '{{index .Config.Labels "recipe"}}' $image 2>/dev/null) == "$wanted" ]]; then return; fi
  echo "== making $image"
  docker image rm -f $image >/dev/null 2>&1 || true
  recipe "$temp/root"
  as_root tar -C "$temp/root" -c . |
    docker import --change "LABEL recipe=$wanted" --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin' - $image >/dev/null
}

# checkout puts a clone with the changes of the working tree into a folder, as a tar archive that belongs to root.
checkout() {
  git clone -q -n --depth 1 "file://$PWD" "$temp/src"
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
    xargs -0 cp --parents -a -t "$temp/src"
  git -C "$temp/src" reset -q
  tar -C "$temp" --owner=0 --group=0 -cf "$temp/src.tar" src
}

# inside ARGUMENT... runs this script with the arguments in a new container, which is removed afterwards.
inside() {
  local status=0
  container=$(docker create --init -w /src "${settings[@]}" $image scripts/test-fresh.sh "$@")
  docker cp - "$container:/" <"$temp/src.tar"
  docker start -a "$container" || status=$?
  docker rm -f "$container" >/dev/null
  container=
  return $status
}

main() {
  if ! docker info >/dev/null 2>&1; then
    echo "test-fresh: no container engine answers (docker info)" >&2
    return 1
  fi
  container='' temp=$(mktemp -d)
  trap 'as_root rm -rf --one-file-system "$temp"; if [[ -n $container ]]; then docker rm -f "$container" >/dev/null; fi' EXIT
  # What Go and apt need to reach their registries from here: by name, so that no value stands in a list of processes.
  GOPROXY=$(go env GOPROXY) GONOSUMDB=$(go env GONOSUMDB) GOSUMDB=$(go env GOSUMDB)
  export GOPROXY GONOSUMDB GOSUMDB
  settings=(-e GOPROXY -e GONOSUMDB -e GOSUMDB -e GOFLAGS= -e GOTOOLCHAIN=local -e SSL_CERT_FILE=/etc/ssl/machine.crt)
  settings+=(-v "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}:/etc/ssl/machine.crt:ro")
  settings+=(--network "${FRESH_NETWORK:-bridge}")
  # Docker leaves ::1 out of its own networks; a machine has it.
  if [[ ${FRESH_NETWORK:-bridge} == bridge ]]; then settings+=(--sysctl net.ipv6.conf.lo.disable_ipv6=0); fi
  local name
  for name in http_proxy https_proxy no_proxy; do if [[ -n ${!name:-} ]]; then settings+=(-e "$name"); fi; done
  build_image
  checkout
  if [[ ${1:-} == -quick-start ]]; then
    inside -run quick_start
    return
  elif [[ ${1:-} == "" ]]; then
    inside -run whole
    return
  fi
  local target
  for target in test race test-faults; do
    if [[ $target != test && $(installs $target) == "$(installs test)" ]]; then
      echo "== make $target: installs what make test does"
      continue
    fi
    echo "== make $target: what it installs"
    inside -run needs $target redis-server
  done
  echo "== make test-integration: what it installs"
  inside -run needs test-integration redis-server nginx haproxy python3 chromium prometheus promtool
}

case ${1:-} in
-run) shift && "$@" ;; # in a container
"" | -install-only | -quick-start) main "$@" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
esac
