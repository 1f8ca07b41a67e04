//go:build unix

package httpfiber

import (
	"syscall"

	"go.uber.org/zap"
)

// reservedFiles are kept from clients: for the store's connections, logs and the admin plane, which must work while
// the data plane is full.
const reservedFiles = 256

// boundByOpenFiles lowers a number of connections to what the limit on open files leaves.
func boundByOpenFiles(conns int, log *zap.Logger) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return conns
	}
	if room := max(int64(min(limit.Cur, 1<<31))-reservedFiles, 1); int64(conns) > room {
		log.Warn("the limit on open files is too low for "+envPrefix+"HTTP_MAX_CONNS",
			zap.Int("wanted", conns), zap.Int64("used", room))
		return int(room)
	}
	return conns
}
