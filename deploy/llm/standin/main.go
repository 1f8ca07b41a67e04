// Command standin answers as the servers of language models do, without a model: it repeats the last message, a token a word. It has
// OpenAI's chat completions and Anthropic's messages, streaming and not, with usage. It is for examples and tests.
//
// The model "broken" answers 500, and the model "cut" breaks off in the middle of its answer.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

func main() {
	addr := flag.String("listen", "localhost:8080", "the `address` to listen on")
	pause := flag.Duration("pause", 0, "how long a word takes")
	flag.Parse()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", serve(*pause, completions))
	mux.HandleFunc("POST /v1/messages", serve(*pause, messages))
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on http://%s", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}

// request has what both APIs have in common, and OpenAI's names of the rest.
type request struct {
	Model               string
	Messages            []struct{ Content content }
	MaxTokens           int  `json:"max_tokens"`
	MaxCompletionTokens int  `json:"max_completion_tokens"`
	Stream              bool `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// content is a text, or the texts of several parts.
type content string

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*c = content(one)
		return nil
	}
	var parts []struct{ Text string }
	err := json.Unmarshal(text, &parts)
	for _, p := range parts {
		*c += content(p.Text)
	}
	return err
}

// answer is what a model says to a request.
type answer struct {
	http.ResponseWriter
	request
	words  []string // a token each
	input  int      // tokens
	reason string   // why it ends: "stop" or "length"
	pause  time.Duration
}

func serve(pause time.Duration, write func(*answer)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w, reason: "stop", pause: pause}
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&a.request)
		switch {
		case err != nil || len(a.Messages) == 0:
			a.fail(http.StatusBadRequest, "no messages")
			return
		case a.Model == "broken":
			a.fail(http.StatusInternalServerError, "the model is broken")
			return
		}
		for _, m := range a.Messages {
			a.words = strings.Fields(string(m.Content))
			a.input += len(a.words)
		}
		if most := cmp.Or(a.MaxCompletionTokens, a.MaxTokens); most > 0 && most < len(a.words) {
			a.words, a.reason = a.words[:most], "length"
		}
		if !a.Stream {
			time.Sleep(pause * time.Duration(len(a.words)))
			w.Header().Set("Content-Type", "application/json")
		} else {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		write(a)
	}
}

func completions(a *answer) {
	type object = map[string]any
	usage := object{"prompt_tokens": a.input, "completion_tokens": len(a.words), "total_tokens": a.input + len(a.words)}
	body := func(kind string, choices ...object) object {
		return object{"id": "chatcmpl-1", "object": kind, "created": 1774785600, "model": a.Model, "choices": append([]object{}, choices...)}
	}
	if !a.Stream {
		whole := body("chat.completion", object{
			"index": 0, "message": object{"role": "assistant", "content": strings.Join(a.words, " ")}, "finish_reason": a.reason,
		})
		whole["usage"] = usage
		a.json(whole)
		return
	}
	chunk := func(delta object, reason any) {
		a.event("", body("chat.completion.chunk", object{"index": 0, "delta": delta, "finish_reason": reason}))
	}
	chunk(object{"role": "assistant", "content": ""}, nil)
	a.each(func(word string) { chunk(object{"content": word}, nil) })
	chunk(object{}, a.reason)
	if a.StreamOptions.IncludeUsage {
		last := body("chat.completion.chunk")
		last["usage"] = usage
		a.event("", last)
	}
	fmt.Fprint(a, "data: [DONE]\n\n")
}

func messages(a *answer) {
	type object = map[string]any
	reason := map[string]string{"stop": "end_turn", "length": "max_tokens"}[a.reason]
	usage := func(output int) object { return object{"input_tokens": a.input, "output_tokens": output} }
	message := object{"id": "msg_1", "type": "message", "role": "assistant", "model": a.Model, "stop_sequence": nil}
	if !a.Stream {
		message["content"] = []object{{"type": "text", "text": strings.Join(a.words, " ")}}
		message["stop_reason"], message["usage"] = reason, usage(len(a.words))
		a.json(message)
		return
	}
	event := func(kind string, fields object) {
		fields["type"] = kind
		a.event(kind, fields)
	}
	message["content"], message["stop_reason"], message["usage"] = []object{}, nil, usage(1)
	event("message_start", object{"message": message})
	event("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
	event("ping", object{})
	a.each(func(word string) {
		event("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": word}})
	})
	event("content_block_stop", object{"index": 0})
	event("message_delta", object{"delta": object{"stop_reason": reason, "stop_sequence": nil}, "usage": object{"output_tokens": len(a.words)}})
	event("message_stop", object{})
}

// each calls write with each word of a stream, at its time, and with the space before it.
func (a *answer) each(write func(word string)) {
	for i, word := range a.words {
		if a.Model == "cut" && i == len(a.words)/2 {
			panic(http.ErrAbortHandler)
		}
		time.Sleep(a.pause)
		if i > 0 {
			word = " " + word
		}
		write(word)
	}
}

// event writes a server-sent event. If it has no name, it has data alone.
func (a *answer) event(name string, data any) {
	if name != "" {
		fmt.Fprintf(a, "event: %s\n", name)
	}
	fmt.Fprint(a, "data: ")
	a.json(data)
	fmt.Fprint(a, "\n")
	_ = http.NewResponseController(a.ResponseWriter).Flush() // the error means that the client has left
}

func (a *answer) json(value any) {
	_ = json.NewEncoder(a).Encode(value) // as above
}

func (a *answer) fail(status int, message string) {
	a.Header().Set("Content-Type", "application/json")
	a.WriteHeader(status)
	a.json(map[string]any{"error": map[string]any{"type": "error", "message": message}})
}
