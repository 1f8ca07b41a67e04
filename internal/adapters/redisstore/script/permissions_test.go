package script

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPermissions_nameEveryCommandOfTheScript(t *testing.T) {
	for _, call := range regexp.MustCompile(`call\('([A-Z]+)'`).FindAllStringSubmatch(Source, -1) {
		assert.Contains(t, permissionsSource, "{'"+strings.ToLower(call[1])+"'")
	}
}
