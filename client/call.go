package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"
)

// MaxChecks is how many checks the service accepts in one call.
const MaxChecks = 1000

// maxCheck is the length of the longest check that the service accepts, in bytes of JSON.
const maxCheck = 64 << 10

// maxAnswer bounds the size of an answer. A thousand results with 32 limits each are smaller.
const maxAnswer = 8 << 20

// encodeTake returns the JSON of a check that takes tokens now.
func (c *Check) encodeTake() (json.RawMessage, error) {
	if !c.TakenAt.IsZero() {
		return nil, fmt.Errorf("%w: TakenAt: only refunds and charges have it", ErrInvalid)
	}
	if c.MaxWait < 0 {
		return nil, fmt.Errorf("%w: MaxWait: %v: must not be negative", ErrInvalid, c.MaxWait)
	}
	return c.encode()
}

// encodeAdjustment returns the JSON of a refund or a charge.
func (c *Check) encodeAdjustment() (json.RawMessage, error) {
	if c.MaxWait != 0 {
		return nil, fmt.Errorf("%w: MaxWait: refunds and charges do not wait", ErrInvalid)
	}
	return c.encode()
}

// encode returns the JSON of a check. Text that is not UTF-8 is refused, because JSON would have U+FFFD in place of each wrong
// byte, and different keys would then be equal.
func (c *Check) encode() (json.RawMessage, error) {
	if field := c.notUTF8(); field != "" {
		return nil, fmt.Errorf("%w: %s: must be UTF-8", ErrInvalid, field)
	}
	wire := struct {
		*Check
		TakenAt int64 `json:"taken_at_us,omitempty"`
		MaxWait int64 `json:"max_wait_ms,omitempty"`
	}{Check: c, MaxWait: c.MaxWait.Milliseconds()}
	if !c.TakenAt.IsZero() {
		if wire.TakenAt = c.TakenAt.UnixMicro(); wire.TakenAt < 1 {
			return nil, fmt.Errorf("%w: TakenAt: %v: must be after the start of 1970", ErrInvalid, c.TakenAt)
		}
	}
	body, err := json.Marshal(wire)
	if err == nil && len(body) > maxCheck {
		err = fmt.Errorf("%w: its JSON has %d bytes: must be at most %d", ErrInvalid, len(body), maxCheck)
	}
	return body, err
}

// notUTF8 names a field that is not UTF-8; "" if all are.
func (c *Check) notUTF8() string {
	switch {
	case !utf8.ValidString(c.Policy):
		return "Policy"
	case !utf8.ValidString(c.Key):
		return "Key"
	}
	for name, value := range c.Attributes {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return fmt.Sprintf("Attributes[%q]", name)
		}
	}
	return ""
}

// callOne sends a request for one result.
func (c *Client) callOne(ctx context.Context, path string, body []byte) (Result, error) {
	answer, err := c.post(ctx, path, body)
	if err != nil {
		return Result{}, err
	}
	return readResult(answer)
}

// callMany sends checks to /v1/checks.
func (c *Client) callMany(ctx context.Context, checks []json.RawMessage) ([]Answer, error) {
	body, err := json.Marshal(map[string][]json.RawMessage{"checks": checks})
	if err != nil {
		return nil, err
	}
	text, err := c.post(ctx, "/v1/checks", body)
	if err != nil {
		return nil, err
	}
	var list struct {
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, unreadable(err)
	}
	if len(list.Results) != len(checks) {
		return nil, unreadable(fmt.Errorf("%d results for %d checks", len(list.Results), len(checks)))
	}
	answers := make([]Answer, len(checks))
	for i, result := range list.Results {
		answers[i] = readAnswer(result)
	}
	return answers, nil
}

// post returns the body of an answer with status 200. For any other status it returns an [*Error].
func (c *Client) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// The transport repeats a POST only if no byte of it was written, so no check is ever sent twice.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = resp.Body.Close() }() // the body has been read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, problemOf(resp, text)
	}
	return text, nil
}

func unreadable(err error) error {
	return fmt.Errorf("%w: the answer cannot be read: %w", ErrUnavailable, err)
}
