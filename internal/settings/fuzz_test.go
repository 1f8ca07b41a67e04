package settings

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzSettings gives each variable any value. The value is accepted, or refused under the name of its variable. No error
// shows a secret.
func FuzzSettings(f *testing.F) {
	for i, seed := range []string{"", "1", "-1", "true", "5/s", "50ms", "a,b ,c", "127.0.0.1:1", "s=h:1", " ", "1e9", "9223372036854775808h", "\xff"} {
		f.Add(uint(i), seed)
	}
	f.Fuzz(func(t *testing.T, which uint, value string) {
		if strings.ContainsRune(value, 0) {
			return // no environment can hold it
		}
		var cfg Config
		settings := settingsOf(&cfg)
		s := settings[which%uint(len(settings))]
		t.Setenv(s.name, value)
		err := s.decode()
		if err != nil {
			require.ErrorContains(t, err, s.name)
		}
		_, all := Load()
		if all == nil {
			return
		}
		for _, violation := range Violations(all) {
			require.Regexp(t, `^(VELOCITY_[A-Z0-9_]+|REDIS_ADDR|VELOCITY_\S+)`, violation.Error(), "each names its setting")
		}
		if secret := len(value) > 8 && strings.HasSuffix(s.field.Type().Name(), "Secret"); secret {
			assert.NotContains(t, all.Error(), value)
		}
	})
}
