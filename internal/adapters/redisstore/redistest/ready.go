package redistest

import (
	"bufio"
	"crypto/tls"
	"net"
	"strings"
	"time"
)

// answers reports whether a server at addr is up: it answers PING, or refuses it for want of a password. One that
// still loads its data is not up.
func answers(addr string, secure bool) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // a test's own server on loopback
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && !strings.HasPrefix(line, "-LOADING")
}
