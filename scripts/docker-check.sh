#!/usr/bin/env bash
# Checks compose files and the Dockerfile without a Docker daemon: with the loader of `docker compose config`, and with the
# linter of Docker's language server. Needs npm, and the network to fetch the checkers.
set -euo pipefail
cd "$(dirname "$0")/.."

for file in docker-compose*.yml deploy/*/compose.yaml; do
  echo "== $file"
  go run github.com/compose-spec/compose-go/v2/cmd@v2.16.2 "$file" >/dev/null
done
echo "== Dockerfile"
npx --yes dockerfile-utils@0.16.3 lint Dockerfile
