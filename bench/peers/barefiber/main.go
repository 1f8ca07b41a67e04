// Command barefiber answers with fixed bytes, through Fiber, and decides nothing: the least that an HTTP service built
// on Fiber can cost. It sends what another service was seen to send, header by header.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"os"

	"github.com/gofiber/fiber/v2"

	"github.com/velocity-limiter/velocity/bench/internal/replay"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	file := flag.String("answers", "", "JSON file of the answers, by path")
	flag.Parse()
	if err := run(*addr, *file); err != nil {
		log.Fatal(err)
	}
}

func run(addr, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var answers []replay.Answer
	if err := json.Unmarshal(text, &answers); err != nil {
		return err
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true, CaseSensitive: true, StrictRouting: true})
	for _, a := range answers {
		body := []byte(a.Body)
		app.Get(a.Path, func(c *fiber.Ctx) error {
			// Read, since no limiter can do without it.
			if len(c.Get("X-Client-ID")) == 0 {
				return fiber.ErrBadRequest
			}
			for _, h := range a.Header {
				c.Response().Header.Set(h.Name, h.Value)
			}
			c.Status(a.Status)
			return c.Send(body)
		})
	}
	return app.Listen(addr)
}
