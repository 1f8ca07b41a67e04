// Package containers runs the Dockerfile and the compose files of the repository in a container engine, and breaks what can
// break there: nodes, shards, the network between them, names and addresses. It holds only tests, behind the build tag
// containers, because they need an engine: `make test-containers`. scripts/container-images.sh provides the base images.
//
// Requests go to the ports that the engine publishes on loopback.
package containers
