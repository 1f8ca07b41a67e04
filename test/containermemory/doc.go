// Package containermemory floods the service with new clients in containers of little memory. The tests need Docker and the
// build tag containers; `make test-memory` runs them.
package containermemory
