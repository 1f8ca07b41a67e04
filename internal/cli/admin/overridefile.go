package admin

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/velocity-limiter/velocity/internal/cli/command"
)

// overrideLine is an override in a file: a line of JSON. Says has the members of the request that sets it.
type overrideLine struct {
	Policy string         `json:"policy"`
	Key    string         `json:"key"`
	Source string         `json:"source,omitzero"`
	SetAt  string         `json:"set_at,omitzero"`
	Unfit  string         `json:"unfit,omitzero"`
	Says   jsontext.Value `json:",embed"`
}

// write writes the line, without what only an answer has.
func (l *overrideLine) write(w io.Writer) error {
	line := *l
	line.SetAt, line.Unfit = "", ""
	text, err := json.Marshal(&line)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func (l *overrideLine) path() string {
	path := overridesPath + url.PathEscape(l.Policy) + "/" + url.PathEscape(l.Key)
	if l.Source != "" {
		path += "?source=" + url.QueryEscape(l.Source)
	}
	return path
}

// export writes the overrides of one policy, or of all.
func (o *overrideFlags) export(ctx context.Context, args []string, s command.Streams) error {
	c, err := o.clientWithout(args)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(s.Out)
	err = o.each(ctx, c, func(l *overrideLine) error { return l.write(out) })
	return errors.Join(err, out.Flush())
}

// each calls f with each override of one policy, or of all policies and shared limits in their order, and then of those that are gone.
func (o *overrideFlags) each(ctx context.Context, c *adminClient, f func(*overrideLine) error) error {
	if o.policyGiven {
		return o.explained(ctx, c, c.eachOverride(ctx, o.policy, f))
	}
	names, overridden, err := c.policyNames(ctx, true)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := c.eachOverride(ctx, name, f)
		if err != nil && !refusedWith(err, http.StatusUnprocessableEntity) { // a policy that can have none
			return err
		}
	}
	for _, name := range overridden {
		if slices.Contains(names, name) {
			continue
		}
		err := c.eachOverride(ctx, name, f)
		if err != nil && !refusedWith(err, http.StatusNotFound) { // its last one has ended meanwhile
			return err
		}
	}
	return nil
}

const (
	// applyWorkers is how many overrides are set at once.
	applyWorkers = 16
	// applyTries is how often a line is sent while the store does not answer, with applyPause between.
	applyTries = 4
	applyPause = time.Second
	// maxLine is the length of the longest line of a file. The admin plane takes bodies of 64 KiB.
	maxLine = 128 << 10
	// maxLineErrors is how many errors are printed.
	maxLineErrors = 20
)

// apply sets the overrides of a file.
func (o *overrideFlags) apply(ctx context.Context, args []string, s command.Streams) error {
	if len(args) != 1 {
		return command.UsageError{Err: errors.New("one file must be named; - is standard input")}
	}
	c, err := newAdminClient(o.addr)
	if err != nil {
		return err
	}
	name, in, size := args[0], s.In, int64(0)
	if name == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = applyWorkers
	c.http.Transport = transport
	defer transport.CloseIdleConnections()
	a := newApplication(ctx, c, name)
	stop := command.ShowProgress(ctx, s.Err, "setting", func() (done, total int64) { return a.read.Load(), size })
	err = a.all(in)
	stop()
	slices.SortFunc(a.errs, func(x, y lineError) int { return cmp.Compare(x.number, y.number) })
	for _, e := range a.errs {
		_, _ = fmt.Fprintf(s.Err, "%s:%d: %v\n", a.name, e.number, e.err)
	}
	if more := a.failed - len(a.errs); more > 0 {
		_, _ = fmt.Fprintf(s.Err, "and %s\n", command.Plural(more, "more error", "more errors"))
	}
	o.print(s.Out, fmt.Appendf(nil, `{"set":%d,"failed":%d}`, a.set, a.failed), func() {
		_, _ = fmt.Fprintf(s.Out, "Set %s.\n", command.Plural(a.set, "override", "overrides"))
	})
	switch {
	case err != nil:
		return err
	case a.failed > 0:
		return fmt.Errorf("%d of %s failed: mend them and apply the file again", a.failed, command.Plural(a.set+a.failed, "line", "lines"))
	}
	return nil
}

// application sets the overrides of one file. Lines about one client are sent by the same worker, in the file's order.
type application struct {
	ctx    context.Context //nolint:containedctx // of all workers; it ends with the call that made it
	cancel context.CancelCauseFunc
	client *adminClient
	name   string
	read   atomic.Int64 // bytes

	secrets func() bool // reports whether a key may be a secret

	mu          sync.Mutex
	set, failed int
	errs        []lineError // the first maxLineErrors
}

func newApplication(ctx context.Context, c *adminClient, name string) *application {
	ctx, cancel := context.WithCancelCause(ctx)
	secrets := sync.OnceValue(func() bool { return c.hasSecretKeys(ctx) })
	return &application{ctx: ctx, cancel: cancel, client: c, name: name, secrets: secrets}
}

// lineError is what is wrong with a line.
type lineError struct {
	number int
	err    error
}

// numbered is a line that is to be sent.
type numbered struct {
	overrideLine
	number int
}

// all returns the error for which it stopped before the end.
func (a *application) all(in io.Reader) error {
	defer a.cancel(nil)
	var workers sync.WaitGroup
	var queues [applyWorkers]chan numbered
	for i := range queues {
		queues[i] = make(chan numbered, 1)
		workers.Go(func() {
			for line := range queues[i] {
				a.send(&line)
			}
		})
	}
	err := a.each(in, func(line numbered) {
		h := maphash.Comparable(seed, [3]string{line.Policy, line.Source, line.Key})
		queues[h%applyWorkers] <- line // a worker takes it, also after the end of ctx
	})
	for i := range queues {
		close(queues[i])
	}
	workers.Wait()
	if err == nil && a.ctx.Err() != nil {
		err = context.Cause(a.ctx)
	}
	return err
}

var seed = maphash.MakeSeed()

// each calls f with each line that is an override, and counts the others as failed.
func (a *application) each(in io.Reader, f func(numbered)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	number := 0
	for a.ctx.Err() == nil && lines.Scan() {
		number++
		a.read.Add(int64(len(lines.Bytes()) + 1))
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		line := numbered{number: number}
		err := json.Unmarshal(bytes.Clone(text), &line.overrideLine)
		switch {
		case err != nil:
			err = lineFault(err)
		case line.Policy == "":
			err = errors.New("policy: is missing")
		case line.Key == "":
			err = errors.New("key: is missing")
		}
		if err != nil {
			a.fail(number, err)
			continue
		}
		if len(line.Says) == 0 {
			line.Says = jsontext.Value("{}")
		}
		f(line)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", a.name, number+1, err)
	}
	return nil
}

// lineFault says what is wrong with a line that is no override, given the error of package json.
func lineFault(err error) error {
	syntactic, isSyntactic := errors.AsType[*jsontext.SyntacticError](err)
	semantic, isSemantic := errors.AsType[*json.SemanticError](err)
	switch {
	case isSyntactic && errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("%s: is repeated", command.Printable(syntactic.JSONPointer.LastToken()))
	case isSyntactic && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("is not JSON at byte %d", syntactic.ByteOffset)
	case isSemantic && semantic.JSONPointer == "":
		return errors.New("must be a JSON object")
	case isSemantic:
		return fmt.Errorf("%s: must be a text", command.Printable(semantic.JSONPointer.LastToken()))
	}
	return errors.New("is not JSON: it ends too early")
}

// send sets one override. What is wrong with this line alone is counted; what would be wrong with every other line ends all.
func (a *application) send(line *numbered) {
	if a.ctx.Err() != nil {
		return
	}
	err := a.try(line)
	if _, refused := errors.AsType[*refusal](err); err != nil && !refused {
		a.cancel(err)
		return
	}
	if err != nil {
		a.fail(line.number, fmt.Errorf("%s of %s: %w", clientName(line.Key, a.secrets()), command.Printable(line.Policy), err))
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set++
}

// try sends the line again while the store does not answer.
func (a *application) try(line *numbered) error {
	for tries := 1; ; tries++ {
		_, err := a.client.send(a.ctx, http.MethodPut, line.path(), line.Says)
		if tries == applyTries || !refusedWith(err, http.StatusServiceUnavailable) {
			return err
		}
		select {
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		case <-time.After(applyPause):
		}
	}
}

func (a *application) fail(number int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed++; len(a.errs) < maxLineErrors {
		a.errs = append(a.errs, lineError{number, err})
	}
}
