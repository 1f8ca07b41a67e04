package policies

import (
	"crypto/rand"
	"slices"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// keyHasher returns the Hasher of VELOCITY_KEY_SECRET. Without the setting, which is seldom known where files are checked, it
// returns one of a secret that nothing else has; then known is false.
func keyHasher() (hasher *clientkey.Hasher, known bool, err error) {
	if hasher, err = settings.KeyHasher(); hasher != nil || err != nil {
		return hasher, true, err
	}
	hasher, err = randomHasher()
	return hasher, false, err
}

// randomHasher returns the same for every file, so that the clients of two files can be compared.
var randomHasher = sync.OnceValues(func() (*clientkey.Hasher, error) {
	random := make([]byte, 2*clientkey.MinSecret)
	_, _ = rand.Read(random) // it never fails
	return clientkey.NewHasher(random)
})

// unknownSecret returns a sentence that what follows from VELOCITY_KEY_SECRET is not known here, or "" if the policies have no
// secret key or the setting is there.
func unknownSecret(policies []*policy.Policy, what string) string {
	if _, known, _ := keyHasher(); known || !slices.ContainsFunc(policies, hasSecret) {
		return ""
	}
	return "VELOCITY_KEY_SECRET is not set here: " + what
}

// hasSecret reports whether a policy counts by a secret key.
func hasSecret(p *policy.Policy) bool {
	return slices.ContainsFunc(p.Groups(), func(g policy.Group) bool { return g.Key.Secret() }) || p.Key.Secret()
}
