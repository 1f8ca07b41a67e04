//go:build unix

package listener

import (
	"syscall"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// reservedFiles is the number of files that clients cannot use up: the store's connections, logs and the admin plane need
// them while the data plane is full.
const reservedFiles = 256

// boundByOpenFiles lowers a number of connections to what the limit on open files allows.
func boundByOpenFiles(conns int, log *zap.Logger) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return conns
	}
	if left := max(int64(min(limit.Cur, 1<<31))-reservedFiles, 1); int64(conns) > left {
		log.Warn("the limit on open files is too low for "+setting.Prefix+"HTTP_MAX_CONNS",
			zap.Int("wanted", conns), zap.Int64("used", left))
		return int(left)
	}
	return conns
}
