package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// MaxChecks is the most that the service takes in one call.
const MaxChecks = 1000

// maxAnswer bounds what is read of an answer: a thousand results of 32 limits each stay below it.
const maxAnswer = 8 << 20

// callOne asks for one result.
func (c *Client) callOne(ctx context.Context, path string, body []byte) (Result, error) {
	answer, err := c.post(ctx, path, body)
	if err != nil {
		return Result{}, err
	}
	return readResult(answer)
}

// callMany asks for the results of /v1/checks.
func (c *Client) callMany(ctx context.Context, checks []json.RawMessage) ([]Answer, error) {
	body, err := json.Marshal(struct {
		Checks []json.RawMessage `json:"checks"`
	}{checks})
	if err != nil {
		return nil, err
	}
	text, err := c.post(ctx, "/v1/checks", body)
	if err != nil {
		return nil, err
	}
	var list struct {
		Results []wireAnswer `json:"results"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, unreadable(err)
	}
	if len(list.Results) != len(checks) {
		return nil, unreadable(fmt.Errorf("%d results for %d checks", len(list.Results), len(checks)))
	}
	answers := make([]Answer, len(checks))
	for i := range list.Results {
		answers[i] = list.Results[i].answer()
	}
	return answers, nil
}

// post returns the body of a 200, and the problem of everything else as an error.
func (c *Client) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// The transport sends a POST again only if not a byte of it was written, so nothing is ever asked twice.
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
	defer func() { _ = resp.Body.Close() }() // it has been read
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
