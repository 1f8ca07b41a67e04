// Command plainproxy forwards every request to one server with fasthttp's own client, and decides nothing: the least that
// a reverse proxy built on fasthttp can cost. It holds whole bodies in memory, and trusts both sides.
package main

import (
	"flag"
	"log"

	"github.com/valyala/fasthttp"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	upstream := flag.String("upstream", "", "host:port of the server")
	flag.Parse()
	client := &fasthttp.HostClient{Addr: *upstream, MaxConns: 4096, DisablePathNormalizing: true}
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Request.Header.Del(fasthttp.HeaderConnection)
		if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
			ctx.Error("Bad Gateway", fasthttp.StatusBadGateway)
		}
		ctx.Response.Header.Del(fasthttp.HeaderConnection)
	}}
	log.Fatal(server.ListenAndServe(*addr))
}
