package httpproxy_test

import (
	"net/http"
	"os"
	"testing"
)

// Each server of httptest that is closed closes the idle connections of the default transport, also one that a parallel test is
// about to use. So the default client of these tests has a transport of its own.
func TestMain(m *testing.M) {
	http.DefaultClient = &http.Client{Transport: &http.Transport{}}
	os.Exit(m.Run())
}
