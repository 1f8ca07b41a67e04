// Package webtest is what the tests of every entry point for HTTP share. It has requests and responses over a connection, a limiter of
// one function, requests that every entry point must understand in the same way, and decisions that each must answer in the same way.
package webtest

// Paths are spellings of a path, and the normal form that is decided and forwarded; "" means that the request is refused.
// R stands for the last segment of a path, %R for it with its first letter encoded.
var Paths = map[string]string{
	"/api/R": "/api/R", "/api//R": "/api/R", "/api/./R": "/api/R", "/api/%R": "/api/R", "//api/R": "/api/R",
	"/x/../api/R?a=/../b": "/api/R", "/api/x/%2e%2e/R": "/api/R", "/api/x/.%2E/R": "/api/R", "/%61pi/%R": "/api/R",
	"/API/R": "/API/R", "/api/R/": "/api/R/", "/api/R%20": "/api/R%20", "/api/R%3fa": "/api/R%3Fa",
	"/api/R;a=b": "/api/R;a=b", "/api/R%3b": "/api/R%3B", "/api/é": "/api/%C3%A9", "/api/R%23": "/api/R%23",
	"/api%2fR": "", "/api%2FR": "", "/api%5cR": "", "/api\\R": "", "/api/R%00": "", "/../api/R": "",
	"/api/../../api/R": "", "/%2e%2e/api/R": "", "/api/%2572esource": "", "/api/R%": "", "/api/R%zz": "",
	"/api/%25%37%32": "",
}

// EncodedSlashes are spellings, and their normal form, where an encoded slash is allowed.
var EncodedSlashes = map[string]string{
	"/a%2fb": "/a%2Fb", "/a/..%2Fb": "/a/..%2Fb", "/a%2f%2e%2e%2fb": "/a%2F..%2Fb", "/a%5cb": "", "/a%252fb": "",
}

// Clients are header lines, and the address of the client if the peer is 127.0.0.1, and loopback and 10.0.0.0/8 are trusted
// proxies. If none is trusted, the client is always the peer.
var Clients = map[string]string{
	"":                               "127.0.0.1",
	"X-Forwarded-For: 192.0.2.1\r\n": "192.0.2.1",
	"X-Forwarded-For: 198.51.100.9, 192.0.2.1\r\n":                          "192.0.2.1",
	"X-Forwarded-For: 192.0.2.1, 10.1.2.3\r\n":                              "192.0.2.1",
	"X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.1\r\n":       "192.0.2.1",
	"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n": "192.0.2.1",
	"X-Forwarded-For: [2001:db8::1]:443\r\n":                                "2001:db8::1",
	"X-Forwarded-For: ::ffff:192.0.2.1\r\n":                                 "192.0.2.1",
	"X-Forwarded-For: 192.0.2.1, unknown\r\n":                               "127.0.0.1",
	"X-Forwarded-For:\r\n":                                                  "127.0.0.1",
	"X-Real-IP: 192.0.2.1\r\n":                                              "127.0.0.1",
	"X_Forwarded_For: 192.0.2.1\r\n":                                        "127.0.0.1",
	"Forwarded: for=192.0.2.1\r\n":                                          "127.0.0.1",
	"True-Client-IP: 192.0.2.1\r\nCF-Connecting-IP: 192.0.2.1\r\n":          "127.0.0.1",
	"Connection: X-Forwarded-For\r\nX-Forwarded-For: 192.0.2.1\r\n":         "192.0.2.1",
}
