package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/secretfile"
	"github.com/velocity-limiter/velocity/internal/violation"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
)

// placeholder stands for a secret that cannot be read. It has the length that a secret needs.
const placeholder = "0123456789abcdef0123456789abcdef"

// readSecrets reads the files that the twins of secrets name, and sets the secrets to what they hold. It returns the files by the
// names of the secrets. After an error the secret is set to a text that no check refuses: the start ends anyway.
func readSecrets(list []variable) (map[string]*secretfile.File, error) {
	files := make(map[string]*secretfile.File)
	var errs []error
	for _, s := range list {
		if !s.isSecret() {
			continue
		}
		value := s.field.String()
		path := strings.TrimSpace(os.Getenv(s.name + fileSuffix))
		switch {
		case path == "" && s.isTokens && strings.Contains(value, "\n"):
			errs = append(errs, fmt.Errorf("%s: [redacted]: must be one token: several belong in a file, which %[1]s%s names", s.name, fileSuffix))
			s.field.SetString(placeholder)
		case path == "" && s.isTokens:
			s.field.SetString(string(bearer.Single(secret.Secret(value))))
		case path == "":
		case value != "":
			errs = append(errs, fmt.Errorf("%s%s: %[1]s is set, too: set one of them", s.name, fileSuffix))
		default:
			file, err := secretfile.Open(s.name+fileSuffix, path)
			if err != nil {
				errs = append(errs, err)
				s.field.SetString(placeholder)
				continue
			}
			files[s.name] = file
			s.field.SetString(string(file.Secret()))
		}
	}
	return files, errors.Join(errs...)
}

// inFiles makes the violations name the twin of a secret that a file holds.
func inFiles(err error, files map[string]*secretfile.File) error {
	for _, one := range Violations(err) {
		if v, ok := errors.AsType[*violation.Error](one); ok && files[v.Setting] != nil {
			v.Setting += fileSuffix
		}
	}
	return err
}

// use has each part of the configuration that can change a secret follow its file. The file of a secret that is not here is read at
// the start alone.
func (c *Config) use(files map[string]*secretfile.File) {
	follow := func(name string) *secretfile.File {
		file := files[prefix+name]
		if file != nil {
			c.SecretFiles = append(c.SecretFiles, file)
		}
		return file
	}
	if file := follow("API_TOKEN"); file != nil {
		c.HTTP.LiveTokens = bearer.New(c.HTTP.APIToken)
		file.OnChange(c.HTTP.LiveTokens.Replace)
	}
	if file := follow("ADMIN_TOKEN"); file != nil {
		c.Admin.LiveTokens = bearer.New(c.Admin.Token)
		file.OnChange(c.Admin.LiveTokens.Replace)
	}
	if file := follow("REDIS_PASSWORD"); file != nil {
		c.Redis.Credentials = credentials(c.Redis.Username, file)
	}
	if file := follow("REDIS_SENTINEL_PASSWORD"); file != nil {
		c.Redis.SentinelCredentials = credentials(c.Redis.SentinelUsername, file)
	}
}

// credentials returns a user and the password that the file holds at each call.
func credentials(username string, password *secretfile.File) func(context.Context) (string, string, error) {
	return func(context.Context) (string, string, error) { return username, string(password.Secret()), nil }
}

// AdminToken returns the token that a command sends to the admin plane: VELOCITY_ADMIN_TOKEN, or the first one of the file that its
// twin names; empty if neither is set.
func AdminToken() (secret.Secret, error) {
	const name = prefix + "ADMIN_TOKEN"
	token, path := strings.TrimSpace(os.Getenv(name)), strings.TrimSpace(os.Getenv(name+fileSuffix))
	switch {
	case path == "":
		return secret.Secret(token), nil
	case token != "":
		return "", errors.New(name + fileSuffix + ": " + name + " is set, too: set one of them")
	}
	file, err := secretfile.Open(name+fileSuffix, path)
	if err != nil {
		return "", err
	}
	first, err := bearer.First(file.Secret())
	if err != nil {
		return "", fmt.Errorf("%s%s: %w", name, fileSuffix, err)
	}
	return first, nil
}
