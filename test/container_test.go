package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// composeService holds what a compose file says about the privileges of a service.
type composeService struct {
	Image       string   `yaml:"image"`
	Build       any      `yaml:"build"`
	User        string   `yaml:"user"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	CapAdd      []string `yaml:"cap_add"`
	SecurityOpt []string `yaml:"security_opt"`
	Privileged  bool     `yaml:"privileged"`
}

// No container has capabilities, a writable root file system, or a way to gain privileges.
func TestCompose_noContainerHasRights(t *testing.T) {
	files, err := filepath.Glob("../docker-compose*.yml")
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var compose struct {
			Services map[string]composeService `yaml:"services"`
		}
		require.NoError(t, yaml.Unmarshal(text, &compose), file)
		require.NotEmpty(t, compose.Services, file)
		for name, s := range compose.Services {
			what := file + ": " + name
			assert.True(t, s.ReadOnly, what)
			assert.Equal(t, []string{"ALL"}, s.CapDrop, what)
			assert.Empty(t, s.CapAdd, what)
			assert.Contains(t, s.SecurityOpt, "no-new-privileges:true", what)
			assert.False(t, s.Privileged, what)
			// An image that the file builds has its user from the Dockerfile.
			assert.True(t, s.Build != nil && s.User == "" || s.User != "" && s.User != "root" && s.User != "0", what)
		}
	}
}

func TestDockerfile_runsAsNobodyWithoutAShell(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	require.NoError(t, err)
	stages := strings.Split(string(text), "\nFROM ")
	last := stages[len(stages)-1]
	assert.Regexp(t, `^gcr\.io/distroless/static-\w+:nonroot\n`, last, "no shell, no package manager")
	users := regexp.MustCompile(`(?m)^USER (\S+)$`).FindAllStringSubmatch(last, -1)
	require.NotEmpty(t, users)
	assert.Equal(t, "nonroot:nonroot", users[len(users)-1][1])
	assert.NotRegexp(t, `(?m)^(ENV|ARG) .*(TOKEN|PASSWORD|SECRET)`, string(text), "an image can be read by anyone")
}
