#!/usr/bin/env bash
# Provides the images that a Dockerfile and compose files name, and says which they are: container-images.sh FILE...
#
# An image that is there, or that a registry gives, is used as it is. Where no registry answers, a stand-in of the same name is
# made of the distribution's packages and of this machine's Go, as near to the real image as the tests need. It is made again when
# its recipe changes. Remove the image (docker image rm) to have the registry asked again. Needs Docker, and root for debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian-root.sh

base=velocity-stand-in:debian
packages=ca-certificates,haproxy,nginx,redis-server,tzdata

# images FILE... lists the images that the files name, but for stages and for what they build themselves.
images() {
  sed -nE 's/^FROM +([^ ]+).*/\1/p; s/^ +image: +([^ ]+).*/\1/p' "$@" | grep -vx velocity | sort -u
}

# The recipes: Dockerfiles whose context is the folder that `context` fills.
redis_recipe() {
  cat <<END
FROM $base
# As in the official image, any peer is answered, and there is redis-sentinel.
RUN install -d -o redis -g redis /data && \
    printf '#!/bin/sh\nexec /usr/bin/redis-server --protected-mode no "\$@"\n' >/usr/local/bin/redis-server && \
    chmod +x /usr/local/bin/redis-server && ln -s /usr/bin/redis-server /usr/local/bin/redis-sentinel
WORKDIR /data
VOLUME /data
CMD ["redis-server"]
END
}

go_recipe() {
  cat <<END
FROM $base
COPY go /usr/local/go
COPY download /go/pkg/mod/cache/download
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPATH=/go GOPROXY=off GOTOOLCHAIN=local
WORKDIR /go
END
}

static_recipe() {
  cat <<END
FROM $base AS debian
RUN mkdir -p /static/etc/ssl/certs /static/usr/share /static/home/nonroot && install -d -m 1777 /static/tmp && \
    cp /etc/ssl/certs/ca-certificates.crt /static/etc/ssl/certs/ && cp -a /usr/share/zoneinfo /static/usr/share/ && \
    printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >/static/etc/passwd && \
    printf 'root:x:0:\nnonroot:x:65532:\n' >/static/etc/group && chown -R 65532:65532 /static/home/nonroot
FROM scratch
COPY --from=debian /static /
USER 65532
END
}

# recipe IMAGE prints the recipe of an image's stand-in.
recipe() {
  case $1 in
  redis:*) redis_recipe ;;
  golang:*) go_recipe ;;
  */distroless/static*) static_recipe ;;
  *)
    echo "$1: no registry gives it, and there is no recipe for a stand-in" >&2
    return 1
    ;;
  esac
}

# version IMAGE identifies all that the stand-in is made of.
version() {
  (recipe "$1" && base_version && if [[ $1 == golang:* ]]; then go version && cat go.sum; fi) | sha256sum | cut -c1-16
}

base_version() {
  (declare -f debian_root && echo "$packages") | sha256sum | cut -c1-16
}

# label IMAGE prints the version of a stand-in that is there, `real` for another image, and nothing if there is none.
label() {
  docker image inspect -f '{{with index .Config.Labels "stand-in"}}{{.}}{{else}}real{{end}}' "$1" 2>/dev/null || true
}

# build_base makes the image that the stand-ins are made from.
build_base() {
  if [[ $(label $base) == "$(base_version)" ]]; then return; fi
  echo "making $base with debootstrap"
  debian_root "$temp/root" "$packages"
  as_root rm -rf --one-file-system "$temp"/root/var/cache/apt/archives/*.deb
  as_root tar -C "$temp/root" -c . | docker import --change "LABEL stand-in=$(base_version)" \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - $base >/dev/null
}

# context IMAGE fills a folder with what the recipe of an image copies.
context() {
  local dir=$temp/context cache
  rm -rf "$dir"
  mkdir "$dir"
  if [[ $1 == golang:* ]]; then
    cp -a "$(go env GOROOT)" "$dir/go"
    # The modules that go.mod names, from this machine's cache where it has them: containers need no network.
    cache=$(go env GOMODCACHE)
    GOPROXY="file://$cache/cache/download,$(go env GOPROXY)" GOMODCACHE=$temp/modules GOFLAGS=-modcacherw go mod download
    cp -a "$temp/modules/cache/download" "$dir/download"
  fi
}

# provide IMAGE has the image there.
provide() {
  local image=$1 there wanted
  there=$(label "$image")
  if [[ $there == real ]]; then
    echo "$image: the image that is there"
    return
  fi
  wanted=$(version "$image")
  if [[ $there != "$wanted" ]]; then
    if timeout 300 docker pull -q "$image" >/dev/null 2>"$temp/pull.log"; then
      echo "$image: pulled"
      return
    fi
    build_base
    context "$image"
    recipe "$image" | docker build -q --label "stand-in=$wanted" -t "$image" -f - "$temp/context" >/dev/null
  fi
  echo "$image: a stand-in made on this machine"
}

if (($# == 0)); then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
if ! docker info >/dev/null 2>&1; then
  echo "container-images: no container engine answers (docker info)" >&2
  exit 1
fi
temp=$(mktemp -d)
trap 'as_root rm -rf --one-file-system "$temp"' EXIT
for image in $(images "$@"); do provide "$image"; done
