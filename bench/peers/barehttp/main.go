// Command barehttp answers with fixed bytes, through net/http, and decides nothing: the least that an HTTP service built on
// the standard library can cost. It sends what another service was seen to send, header by header.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"strconv"

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
	mux := http.NewServeMux()
	for _, a := range answers {
		body := []byte(a.Body)
		length := strconv.Itoa(len(body))
		mux.HandleFunc("GET "+a.Path, func(w http.ResponseWriter, r *http.Request) {
			// Read, since no limiter can do without it.
			if r.Header.Get("X-Client-ID") == "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			for _, h := range a.Header {
				w.Header().Set(h.Name, h.Value)
			}
			w.Header().Set("Content-Length", length)
			w.WriteHeader(a.Status)
			_, _ = w.Write(body) // a client that has gone is no failure
		})
	}
	return http.ListenAndServe(addr, mux)
}
