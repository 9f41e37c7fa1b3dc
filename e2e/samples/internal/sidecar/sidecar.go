// Package sidecar speaks Dapr's HTTP API to the sidecar of this pod. It uses no
// SDK, so that every call in the samples can be repeated with curl.
package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"samples/internal/web"
)

// Client calls one sidecar.
type Client struct {
	base string
	http *http.Client
}

// New is a client of the sidecar that the injector announced in DAPR_HTTP_PORT.
func New() *Client {
	return &Client{
		base: "http://127.0.0.1:" + web.Env("DAPR_HTTP_PORT", "3500"),
		http: &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

// GRPCAddress is where the sidecar serves gRPC.
func GRPCAddress() string { return "127.0.0.1:" + web.Env("DAPR_GRPC_PORT", "50001") }

// Answer is a sidecar's answer, whatever its status.
type Answer struct {
	Status int
	ETag   string
	Body   []byte
}

// StatusError is an answer outside 2xx.
type StatusError struct {
	Method, Path string
	Answer       Answer
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s answered %d: %s", e.Method, e.Path, e.Answer.Status, bytes.TrimSpace(e.Answer.Body))
}

// Do calls `path` with a JSON body (or none) and returns the answer as it is.
func (c *Client) Do(ctx context.Context, method, path string, body any) (Answer, error) {
	var payload io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		payload = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return Answer{}, err
	}
	return Answer{Status: response.StatusCode, ETag: response.Header.Get("ETag"), Body: text}, nil
}

// Call is Do for calls that must succeed; a non-nil `into` receives the JSON.
func (c *Client) Call(ctx context.Context, method, path string, body, into any) error {
	answer, err := c.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if answer.Status < 200 || answer.Status > 299 {
		return &StatusError{Method: method, Path: path, Answer: answer}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Body, into); err != nil {
		return fmt.Errorf("%s %s: answer %q is not the expected JSON: %w", method, path, answer.Body, err)
	}
	return nil
}
