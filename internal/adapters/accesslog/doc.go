// Package accesslog reads the access logs of web servers as requests that can be decided again: Common and Combined
// Log Format (with Apache's virtual host in front, too), nginx's JSON lines and Caddy's, plain or compressed with gzip.
// Each line's format is told from the line itself.
//
// What it promises: a line that is no request is counted and never stops the reading; several logs are merged by
// time; lines that a server wrote a little out of order are put in order; and the memory does not grow with the logs.
// It does not decide anything, and believes the client addresses that the log has.
package accesslog
