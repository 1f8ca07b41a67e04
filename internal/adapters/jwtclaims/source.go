package jwtclaims

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/token"
	"github.com/velocity-limiter/velocity/internal/filewatch"
)

const (
	// maxKeyBytes is the largest key set, and the largest secret.
	maxKeyBytes = 1 << 20
	// refreshInterval is how often a key set is fetched from its URL.
	refreshInterval = 5 * time.Minute
	// askInterval is the time between two fetches because of tokens that name an unknown key.
	askInterval = 10 * time.Second
	// retryFirst and retryMost bound the time between fetches that fail. It doubles each time.
	retryFirst, retryMost = time.Second, time.Minute
	// fetchTimeout bounds one fetch.
	fetchTimeout = 5 * time.Second
)

// Operators search and alert for these messages.
const (
	msgKeysFailed = "The keys of tokens cannot be loaded: those that were loaded before stay in use"
	msgKeysLoaded = "The keys of tokens are loaded"
)

// source keeps a key set as new as its file or its URL is.
type source struct {
	rules  token.Rules
	log    *zap.Logger
	client *http.Client
	set    atomic.Pointer[keySet] // nil until keys have been loaded

	loads, failures *atomic.Uint64
	failing         atomic.Bool   // the last load failed
	wake            chan struct{} // a token named an unknown key
	cancel          context.CancelFunc
	ended           chan struct{}

	// The rest belongs to the goroutine of follow.
	seen filewatch.State // of the file when it was last read
}

func newSource(rules token.Rules, client *http.Client, log *zap.Logger, loads, failures *atomic.Uint64) *source {
	return &source{
		rules: rules, log: log, client: client, loads: loads, failures: failures,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// newClient returns a client that follows no redirection from HTTPS to HTTP.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() // with connections of its own
	return &http.Client{Timeout: fetchTimeout, Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		if len(via) > 3 || via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
			return errors.New("the server redirects too often, or away from https")
		}
		return nil
	}}
}

// start follows the keys in a goroutine until stop.
func (s *source) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.ended)
		if s.rules.JWKSURL != "" {
			s.followURL(ctx)
		} else {
			s.followFile(ctx)
		}
	}()
}

func (s *source) stop() {
	s.cancel()
	<-s.ended
	s.client.CloseIdleConnections()
}

// ask has the keys fetched soon, because a token names a key that is not in the set.
func (s *source) ask() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// followFile reads the file whenever it changes, and after a failure each time that it is looked at.
func (s *source) followFile(ctx context.Context) {
	filewatch.Watch(ctx, s.log, func() (again bool) {
		seen := filewatch.Look(s.path())
		changed := !seen.Same(s.seen)
		s.seen = seen
		if changed || s.failing.Load() {
			_ = s.load(ctx) // which has logged it
		}
		return false
	}, s.path())
}

// followURL fetches the keys at once, unless they have just been loaded, then at an interval, and when a token names an unknown key.
func (s *source) followURL(ctx context.Context) {
	retry := retryFirst
	for loaded := s.set.Load() != nil; ; loaded = false {
		select {
		case <-s.wake: // this fetch answers it
		default:
		}
		began, next := time.Now(), refreshInterval
		if !loaded && s.load(ctx) != nil {
			next, retry = retry, min(2*retry, retryMost)
		} else {
			retry = retryFirst
		}
		if !s.pause(ctx, began, next) {
			return
		}
	}
}

// pause waits for the next fetch. It returns false if ctx ends.
func (s *source) pause(ctx context.Context, began time.Time, next time.Duration) bool {
	timer := time.NewTimer(next)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-s.wake:
	}
	early := time.NewTimer(askInterval - time.Since(began))
	defer early.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-early.C:
	}
	return true
}

// load loads the keys and puts them into use, unless they are those in use. It logs the first failure after a success, and the
// first success after a failure.
func (s *source) load(ctx context.Context) error {
	set, err := s.read(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.failures.Add(1)
		if !s.failing.Swap(true) {
			s.log.Error(msgKeysFailed, zap.String("source", s.name()), zap.Error(err))
		}
		return err
	}
	s.loads.Add(1)
	old := s.set.Load()
	if changed := old == nil || old.digest != set.digest; changed || s.failing.Load() {
		s.log.Info(msgKeysLoaded, zap.String("source", s.name()), zap.Int("keys", max(len(set.ids), 1)), zap.Bool("changed", changed))
		if changed {
			s.set.Store(set)
		}
	}
	s.failing.Store(false)
	return nil
}

func (s *source) read(ctx context.Context) (*keySet, error) {
	if s.rules.JWKSURL != "" {
		data, err := s.fetch(ctx)
		if err != nil {
			return nil, err
		}
		return parseKeySet(data)
	}
	s.seen = filewatch.Look(s.path())
	file, err := os.Open(s.path())
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := bounded(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", s.path(), err)
	case s.rules.HMACSecretFile == "":
		return parseKeySet(data)
	default:
		return newSecret(data, s.rules.SecretBytes())
	}
}

func bounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyBytes+1))
	if err == nil && len(data) > maxKeyBytes {
		err = fmt.Errorf("is larger than %d bytes", maxKeyBytes)
	}
	return data, err
}

func (s *source) fetch(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.rules.JWKSURL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := s.client.Do(req)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // which does not name the URL: its query may be secret
		}
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	return bounded(res.Body)
}

// path is the file of the keys, if they come from one.
func (s *source) path() string {
	if s.rules.HMACSecretFile != "" {
		return s.rules.HMACSecretFile
	}
	return s.rules.JWKSFile
}

// name is where the keys come from, for people. It has no query.
func (s *source) name() string {
	u, err := url.Parse(s.rules.JWKSURL)
	if s.rules.JWKSURL == "" || err != nil {
		return s.path()
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
