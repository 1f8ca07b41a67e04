// Command caddy is the real Caddy, with the modules that the tests of the doors use. It is a module of its own, so that
// nothing of it reaches Velocity's.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"                  // reads a Caddyfile
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"                          // serves
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"                  // header
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"             // reverse_proxy
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth" // forward_auth
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"                  // what forward_auth is made of
)

func main() { caddycmd.Main() }
