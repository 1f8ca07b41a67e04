#!/usr/bin/env bash
# Builds the program for each platform into dist/, static, as velocity-VERSION-OS-ARCH, with SHA256SUMS.
#
#   release.sh          build the commit that is checked out
#   release.sh -check   build it a second time, elsewhere and without the build cache, and require the same SHA256SUMS
#
# VERSION is a tag such as v1.2.3, which the chart and CHANGELOG.md must name, or any other text for a trial. PLATFORMS may name
# fewer platforms. The binaries depend on the commit, VERSION and the version of Go alone. Files that are changed and not
# committed, or are not in git, do not come in.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${VERSION:-$(git describe --tags --match 'v*' --always 2>/dev/null || echo dev)}
read -r -a platforms <<<"${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64}"
if [[ ! $version =~ ^[A-Za-z0-9._+-]+$ ]]; then
  echo "release.sh: VERSION: \"$version\": must have letters, digits, '.', '_', '+' and '-' only" >&2
  exit 2
fi

# check_tag requires that what names a version names the tag's.
check_tag() {
  local number=${version#v}
  if [[ ! $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || ! git rev-parse -q --verify "refs/tags/$version" >/dev/null; then return; fi
  local chart=deploy/helm/velocity/Chart.yaml wrong=0
  grep -qx "version: $number" "$chart" || { echo "$chart: version: must be $number, as the tag $version" >&2; wrong=1; }
  grep -qx "appVersion: \"$number\"" "$chart" || { echo "$chart: appVersion: must be \"$number\", as the tag $version" >&2; wrong=1; }
  grep -q "^## \[$number\]" CHANGELOG.md || { echo "CHANGELOG.md: has no part [$number]" >&2; wrong=1; }
  if [[ $(git rev-parse "$version^{commit}") != $(git rev-parse HEAD) ]]; then
    echo "release.sh: VERSION: $version is not the commit that is checked out" >&2
    wrong=1
  fi
  ((wrong == 0)) || exit 1
}

# build writes the binaries of HEAD and SHA256SUMS into a folder. It builds in a clone, which holds what is committed and no more.
build() {
  local out=$1 work=$2 platform
  git clone -q --no-tags . "$work"
  mkdir -p "$out"
  for platform in "${platforms[@]}"; do
    local os=${platform%/*} arch=${platform#*/}
    echo "building $version for $platform" >&2
    (cd "$work" && CGO_ENABLED=0 GOOS=$os GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' GOWORK=off GOTOOLCHAIN=local \
      go build -trimpath -buildvcs=true -ldflags "-s -w -X main.version=$version" \
      -o "$out/velocity-$version-$os-$arch" ./cmd/api)
  done
  (cd "$out" && sha256sum "velocity-$version-"* >SHA256SUMS)
}

check_tag
scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
case ${1:-} in
  "")
    rm -rf dist
    build "$PWD/dist" "$scratch/clone"
    cat dist/SHA256SUMS
    ;;
  -check)
    if [[ ! -f dist/SHA256SUMS ]]; then
      echo "release.sh: dist/SHA256SUMS is missing: build first" >&2
      exit 1
    fi
    GOCACHE=$scratch/cache build "$scratch/again" "$scratch/another/clone/of/it"
    diff dist/SHA256SUMS "$scratch/again/SHA256SUMS" || { echo "release.sh: two builds of one commit differ" >&2; exit 1; }
    (cd dist && sha256sum --quiet --check SHA256SUMS)
    echo "both builds are the same: ${#platforms[@]} binaries"
    ;;
  *)
    echo "release.sh: $1: the only option is -check" >&2
    exit 2
    ;;
esac
