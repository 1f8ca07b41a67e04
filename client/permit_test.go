package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
)

// permitService is a fake of the service that notes the calls that it answers.
type permitService struct {
	mu     sync.Mutex
	calls  []string // path and body
	answer func(path string, body []byte) (status int, text string)
}

func (s *permitService) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, text := s.answer(r.URL.Path, body)
	s.mu.Lock()
	s.calls = append(s.calls, r.URL.Path+" "+string(body))
	s.mu.Unlock()
	answer := httptest.NewRecorder()
	answer.WriteHeader(status)
	_, _ = answer.WriteString(text)
	return answer.Result(), nil
}

func (s *permitService) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: "http://velocity", Timeout: patience, HTTPClient: &http.Client{Transport: s}})
	require.NoError(t, err)
	return c
}

// granted is the answer to a check that holds a permit.
func granted(permit string) string {
	return strings.Replace(allowed, `"limits"`, `"wait_ms":180,"permit":"`+permit+`","permit_expires_after_ms":60000,"limits"`, 1)
}

// grants answers checks with permits of the names of their keys, and releases every permit.
func grants(path string, body []byte) (int, string) {
	var check client.Check
	var list struct{ Checks []client.Check }
	switch path {
	case "/v1/check":
		_ = json.Unmarshal(body, &check)
		return http.StatusOK, granted(check.Key)
	case "/v1/checks":
		_ = json.Unmarshal(body, &list)
		results := make([]string, len(list.Checks))
		for i := range results {
			results[i] = granted(list.Checks[i].Key)
		}
		return http.StatusOK, `{"results":[` + strings.Join(results, ",") + "]}"
	case "/v1/release":
		return http.StatusOK, `{"released":true}`
	default:
		return http.StatusOK, `{"permit_expires_after_ms":60000}`
	}
}

func TestCheck_readsThePermitAndTheWait(t *testing.T) {
	c := (&permitService{answer: grants}).client(t)
	r, err := c.Check(t.Context(), client.Check{Key: "p"})
	require.NoError(t, err)
	assert.Equal(t, "p", r.Permit)
	assert.Equal(t, time.Minute, r.PermitExpiresAfter)
	assert.Equal(t, 180*time.Millisecond, r.Wait)
	answers, err := c.CheckMany(t.Context(), []client.Check{{Key: "q"}, {Key: "r"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"q", "r"}, []string{answers[0].Result.Permit, answers[1].Result.Permit})
}

func TestMaxWait_isSentInWholeMilliseconds(t *testing.T) {
	s := &permitService{answer: grants}
	c := s.client(t)
	for _, wait := range []time.Duration{0, 999 * time.Microsecond, 1500*time.Millisecond + 999*time.Microsecond} {
		_, err := c.Check(t.Context(), client.Check{Key: "a", MaxWait: wait})
		require.NoError(t, err)
	}
	assert.Equal(t, []string{
		`/v1/check {"key":"a"}`, `/v1/check {"key":"a"}`, `/v1/check {"key":"a","max_wait_ms":1500}`,
	}, s.calls)
}

func TestMaxWait_whatCannotBeMeantIsNotSent(t *testing.T) {
	s := &permitService{answer: grants}
	c := s.client(t)
	_, err := c.Check(t.Context(), client.Check{Key: "a", MaxWait: -1})
	require.ErrorIs(t, err, client.ErrInvalid)
	require.ErrorContains(t, err, "MaxWait: -1ns: must not be negative")
	for _, adjust := range []func(context.Context, client.Check) (client.Result, error){c.Refund, c.Charge} {
		_, err = adjust(t.Context(), client.Check{Key: "a", MaxWait: time.Second})
		require.ErrorIs(t, err, client.ErrInvalid)
		require.ErrorContains(t, err, "MaxWait: refunds and charges do not wait")
	}
	assert.Empty(t, s.calls)
}

func TestRelease_sendsThePermitAndTheCost(t *testing.T) {
	released := true
	s := &permitService{answer: func(string, []byte) (int, string) { return http.StatusOK, fmt.Sprintf(`{"released":%t}`, released) }}
	c := s.client(t)
	got, err := c.Release(t.Context(), "p", nil)
	require.NoError(t, err)
	assert.True(t, got)
	released = false
	for _, cost := range []int64{0, 812} {
		got, err = c.Release(t.Context(), "p", client.Tokens(cost))
		require.NoError(t, err)
		assert.False(t, got)
	}
	assert.Equal(t, []string{
		`/v1/release {"permit":"p"}`, `/v1/release {"permit":"p","cost":0}`, `/v1/release {"permit":"p","cost":812}`,
	}, s.calls)
}

func TestRenew_returnsTheLease(t *testing.T) {
	s := &permitService{answer: grants}
	lease, err := s.client(t).Renew(t.Context(), "p")
	require.NoError(t, err)
	assert.Equal(t, time.Minute, lease)
	assert.Equal(t, []string{`/v1/renew {"permit":"p"}`}, s.calls)
}

func TestReleaseAndRenew_errors(t *testing.T) {
	for status, want := range map[int]struct{ release, renew error }{
		http.StatusNotFound:            {client.ErrUnknownPolicy, client.ErrPermitEnded},
		http.StatusUnprocessableEntity: {client.ErrInvalid, client.ErrInvalid},
		http.StatusUnauthorized:        {client.ErrForbidden, client.ErrForbidden},
		http.StatusServiceUnavailable:  {client.ErrUnavailable, client.ErrUnavailable},
	} {
		c := (&permitService{answer: func(string, []byte) (int, string) { return status, problem(status) }}).client(t)
		_, err := c.Release(t.Context(), "p", nil)
		require.ErrorIs(t, err, want.release, status)
		_, err = c.Renew(t.Context(), "p")
		require.ErrorIs(t, err, want.renew, status)
		var p *client.Error
		require.ErrorAs(t, err, &p)
		assert.Equal(t, status, p.Status)
		assert.NotErrorIs(t, err, client.ErrUnknownPolicy, "a renewal names no policy")
	}
	c := (&permitService{answer: func(string, []byte) (int, string) { return http.StatusOK, `{"message":"hello"}` }}).client(t)
	_, err := c.Release(t.Context(), "p", nil)
	require.ErrorIs(t, err, client.ErrUnavailable, "another program's answer")
	_, err = c.Renew(t.Context(), "p")
	require.ErrorIs(t, err, client.ErrUnavailable)
	_, err = c.Release(t.Context(), "\xff", nil)
	require.ErrorIs(t, err, client.ErrInvalid)
	require.ErrorContains(t, err, "permit: must be UTF-8")
}

// TestCheck_permitsOfCallersWhoLeftAreReleased: a check that is in flight cannot be called back, so what it takes is given back.
func TestCheck_permitsOfCallersWhoLeftAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := &permitService{}
		s.answer = func(path string, body []byte) (int, string) {
			if path != "/v1/release" {
				<-hold
			}
			return grants(path, body)
		}
		c := s.client(t)
		ctx, leave := context.WithCancel(t.Context())
		ask := func(ctx context.Context, key string) {
			go func() {
				r, err := c.Check(ctx, client.Check{Key: key})
				if strings.HasPrefix(key, "leaves") {
					assert.ErrorIs(t, err, context.Canceled, key)
				} else {
					assert.NoError(t, err, key)
					assert.Equal(t, key, r.Permit)
				}
			}()
			synctest.Wait()
		}
		ask(ctx, "leaves alone") // in flight by itself
		ask(t.Context(), "stays")
		ask(ctx, "leaves the queue") // never sent
		leave()
		synctest.Wait()
		ctx, leave = context.WithCancel(t.Context())
		ask(ctx, "leaves others")
		hold <- struct{}{} // the first call is answered, and the second begins
		synctest.Wait()
		leave()
		synctest.Wait()
		hold <- struct{}{}
		synctest.Wait()
		assert.ElementsMatch(t, []string{
			`/v1/check {"key":"leaves alone"}`, `/v1/release {"permit":"leaves alone"}`,
			`/v1/checks {"checks":[{"key":"stays"},{"key":"leaves others"}]}`, `/v1/release {"permit":"leaves others"}`,
		}, s.calls)
	})
}

func TestCheckMany_permitsOfCallsBeforeOneThatFailedAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &permitService{}
		s.answer = func(path string, body []byte) (int, string) {
			if strings.Contains(string(body), `"last"`) {
				return http.StatusServiceUnavailable, problem(http.StatusServiceUnavailable)
			}
			return grants(path, body)
		}
		checks := make([]client.Check, client.MaxChecks+1)
		for i := range checks {
			checks[i].Key = fmt.Sprint(i)
		}
		checks[client.MaxChecks].Key = "last"
		_, err := s.client(t).CheckMany(t.Context(), checks)
		require.ErrorIs(t, err, client.ErrUnavailable)
		synctest.Wait()
		require.Len(t, s.calls, 2+client.MaxChecks)
		for i := range client.MaxChecks {
			assert.Equal(t, fmt.Sprintf(`/v1/release {"permit":"%d"}`, i), s.calls[2+i])
		}
	})
}
