// Command caddy is Caddy with the modules that the integration tests use. It is a module of its own, so that no other
// module requires Caddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"                  // reads a Caddyfile
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"                          // serves
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"                  // header
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"             // reverse_proxy
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/forwardauth" // forward_auth
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"                  // forward_auth needs it
)

func main() { caddycmd.Main() }
