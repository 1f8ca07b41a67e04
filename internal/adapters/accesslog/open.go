package accesslog

import (
	"bufio"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/readahead"
)

// Stdin is the name that means standard input.
const Stdin = "-"

// Open opens logs and starts reading them. The name [Stdin] stands for stdin. A file is decompressed if its first bytes
// are those of gzip, whatever its name. The caller must close the logs.
func Open(names []string, stdin io.Reader, cfg Config) (*Logs, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Logs{cfg: cfg, dec: newJSONDecoder(), quit: make(chan struct{})}
	known := true
	for _, name := range names {
		in, size, err := l.openOne(name, stdin)
		if err != nil {
			_ = l.Close() // the files are only read: an error of Close means nothing
			return nil, err
		}
		known = known && size > 0
		l.total += size
		l.logs = append(l.logs, newLog(name, in, &l.cfg, l.quit))
	}
	if !known {
		l.total = 0
	}
	for _, log := range l.logs {
		if log.name == Stdin {
			go log.run() // Close cannot end its read, and does not wait for it
		} else {
			l.ended.Go(log.run)
		}
	}
	l.open = append(l.open, l.logs...)
	return l, nil
}

// openOne opens one log. The size is 0 if it is unknown.
func (l *Logs) openOne(name string, stdin io.Reader) (in io.Reader, size int64, err error) {
	raw := stdin
	if name != Stdin {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, err
		}
		l.files = append(l.files, f)
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		raw = f
	}
	plain := &unpacker{in: &counter{raw, &l.read}}
	if name == Stdin {
		return plain, 0, nil
	}
	ahead := readahead.NewReader(plain) // decompressing takes as long as the rest: it gets its own goroutine
	l.ahead = append(l.ahead, ahead)
	return ahead, size, nil
}

// counter counts the bytes that are read.
type counter struct {
	in   io.Reader
	read *atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// unpacker decompresses its input if that begins like a gzip file. It looks at the first Read, because that may block.
type unpacker struct {
	in, plain io.Reader
}

func (u *unpacker) Read(b []byte) (int, error) {
	if u.plain == nil {
		buffered := bufio.NewReaderSize(u.in, 256<<10)
		u.plain = buffered
		if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
			unpacked, err := gzip.NewReader(buffered)
			if err != nil {
				return 0, err
			}
			u.plain = unpacked
		} // an error of Peek comes again at the next Read
	}
	return u.plain.Read(b)
}
