package webtest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
)

// Operations returns the operations that the OpenAPI document in a file describes, as "GET /v1/top", in their order: those of the
// admin plane, whose paths name a server of their own, or those of the data plane.
func Operations(t testing.TB, file string, ofAdmin bool) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var document struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	var operations []string
	for path, item := range document.Paths {
		if _, own := item["servers"]; own != ofAdmin {
			continue
		}
		for member := range item {
			if member != "servers" && member != "parameters" {
				operations = append(operations, strings.ToUpper(member)+" "+path)
			}
		}
	}
	slices.Sort(operations)
	return operations
}

// Routes returns the routes of an application as [Operations] does. HEAD goes with GET.
func Routes(app *fiber.App) []string {
	var routes []string
	for _, r := range app.GetRoutes(true) {
		parts := strings.Split(r.Path, "/")
		for i, part := range parts {
			if name, isParam := strings.CutPrefix(part, ":"); isParam {
				parts[i] = "{" + name + "}"
			}
		}
		if r.Method != fiber.MethodHead {
			routes = append(routes, r.Method+" "+strings.Join(parts, "/"))
		}
	}
	slices.Sort(routes)
	return routes
}
