// Package integration runs Velocity together with the programs that users have around it: nginx, Caddy and HAProxy, Prometheus,
// a browser, Python. Those tests need these programs, and have the build tag integration; `make test-integration`
// installs what is missing. The others need libraries that a program which imports velocity shall not inherit, which is
// why all are in a module of their own.
package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/velocity-limiter/velocity/test/harness"
)

func TestMain(m *testing.M) {
	c, err := openContract()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the contract:", err)
		os.Exit(1)
	}
	harness.Observe(c.paths, c.check)
	harness.Main(m, "../..")
}
