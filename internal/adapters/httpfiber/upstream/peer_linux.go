package upstream

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// quiet reports whether there is nothing to read from a connection, not even its end.
func quiet(raw syscall.RawConn) bool { return poll(raw, unix.POLLIN|unix.POLLRDHUP) == 0 }

// hungUp reports whether the other end has closed a connection, even if there is still something to read.
func hungUp(raw syscall.RawConn) bool {
	return poll(raw, unix.POLLRDHUP)&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

func poll(raw syscall.RawConn, events int16) int16 {
	var seen int16 = unix.POLLERR // also where the connection is closed at our end
	_ = raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, err := unix.Poll(fds[:], 0); err == nil || n > 0 {
			seen = fds[0].Revents
		}
	})
	return seen
}
