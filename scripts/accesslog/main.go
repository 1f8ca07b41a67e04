// Command accesslog writes an access log of made-up requests to standard output: a day of traffic in which few clients send
// much and many send little. The same flags give the same log.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"time"
)

func main() {
	lines := flag.Int("lines", 1_000_000, "number of lines")
	clients := flag.Uint64("clients", 100_000, "number of clients")
	format := flag.String("format", "combined", "combined, nginx or caddy")
	flag.Parse()
	line, known := formats[*format]
	if !known || *lines < 1 || *clients < 1 {
		flag.Usage()
		os.Exit(2)
	}
	w := bufio.NewWriter(os.Stdout)
	if err := errors.Join(generate(w, *lines, *clients, line), w.Flush()); err != nil {
		log.Fatal(err)
	}
}

// request is one line.
type request struct {
	at           time.Time
	client       uint64
	method, path string
	status, size int
	agent        int
}

var (
	start = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	paths = []string{"/", "/login", "/api/search?q=%d", "/api/items/%d", "/api/users/%d/orders?page=2", "/static/app.%d.js"}
)

func generate(w io.Writer, lines int, clients uint64, line func(*request) string) error {
	random := rand.New(rand.NewPCG(1, 2))
	busy := rand.NewZipf(random, 1.1, 20, clients-1)
	step := 24 * time.Hour / time.Duration(lines)
	for i := range lines {
		r := request{
			at: start.Add(time.Duration(i)*step + time.Duration(random.Int64N(int64(step)))), client: busy.Uint64(),
			method: "GET", path: paths[random.IntN(len(paths))], status: 200, size: random.IntN(50_000), agent: random.IntN(40),
		}
		switch {
		case r.path == "/login":
			r.method, r.status = "POST", []int{200, 401}[random.IntN(2)]
		case r.path != "/":
			r.path = fmt.Sprintf(r.path, random.IntN(100_000))
		}
		if _, err := io.WriteString(w, line(&r)); err != nil {
			return err
		}
	}
	return nil
}

var formats = map[string]func(*request) string{"combined": combined, "nginx": nginx, "caddy": caddy}

func (r *request) address() string {
	return fmt.Sprintf("10.%d.%d.%d", r.client>>16&255, r.client>>8&255, r.client&255)
}

func (r *request) userAgent() string {
	return fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36", 100+r.agent)
}

func combined(r *request) string {
	return fmt.Sprintf("%s - - [%s] \"%s %s HTTP/1.1\" %d %d \"https://example.com/\" \"%s\"\n",
		r.address(), r.at.Format("02/Jan/2006:15:04:05 -0700"), r.method, r.path, r.status, r.size, r.userAgent())
}

func nginx(r *request) string {
	return fmt.Sprintf(`{"msec":"%.3f","remote_addr":"%s","request_method":"%s","request_uri":"%s","host":"example.com","status":"%d",`+
		`"body_bytes_sent":"%d","http_referer":"https://example.com/","http_user_agent":"%s","http_x_client_id":"c%d"}`+"\n",
		float64(r.at.UnixMilli())/1000, r.address(), r.method, r.path, r.status, r.size, r.userAgent(), r.client)
}

func caddy(r *request) string {
	return fmt.Sprintf(`{"level":"info","ts":%.7f,"logger":"http.log.access.log0","msg":"handled request","request":{"remote_ip":"%[2]s",`+
		`"remote_port":"50000","client_ip":"%[2]s","proto":"HTTP/2.0","method":"%[3]s","host":"example.com","uri":"%[4]s","headers":{`+
		`"User-Agent":["%[7]s"],"Accept":["*/*"],"X-Client-Id":["c%[8]d"]},"tls":{"resumed":false,"version":772,"cipher_suite":4865,`+
		`"proto":"h2","server_name":"example.com"}},"bytes_read":0,"user_id":"","duration":0.0012,"size":%[6]d,"status":%[5]d,`+
		`"resp_headers":{"Server":["Caddy"],"Content-Type":["application/json"]}}`+"\n",
		float64(r.at.UnixMicro())/1e6, r.address(), r.method, r.path, r.status, r.size, r.userAgent(), r.client)
}
