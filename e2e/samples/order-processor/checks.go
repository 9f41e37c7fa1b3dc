package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"samples/internal/backends"
	"samples/internal/sidecar"
	"samples/internal/web"
)

type record struct {
	Key     string            `json:"key"`
	Value   any               `json:"value,omitempty"`
	ETag    string            `json:"etag,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

const stateURL = "/v1.0/state/statestore"

// unique is an id that no earlier run used.
func unique(prefix string) string {
	return fmt.Sprintf("%s-%s-%d", prefix, web.PodName(), time.Now().UnixNano())
}

// checkState writes, reads back, overwrites with a stale ETag (which must be
// refused) and with the fresh one, then runs a transaction over three keys.
func checkState(client *sidecar.Client) web.Check {
	return func(ctx context.Context) (string, error) {
		key := unique("order")
		if err := client.Call(ctx, http.MethodPost, stateURL, []record{{Key: key, Value: "new"}}, nil); err != nil {
			return "", err
		}
		first, err := client.Do(ctx, http.MethodGet, stateURL+"/"+key, nil)
		if err != nil || string(first.Body) != `"new"` || first.ETag == "" {
			return "", fmt.Errorf("read back %q with ETag %q: %w", first.Body, first.ETag, orNil(err))
		}
		guarded := func(value string) []record {
			return []record{{Key: key, Value: value, ETag: first.ETag, Options: map[string]string{"concurrency": "first-write"}}}
		}
		if err := client.Call(ctx, http.MethodPost, stateURL, guarded("paid"), nil); err != nil {
			return "", fmt.Errorf("write with the current ETag: %w", err)
		}
		stale, err := client.Do(ctx, http.MethodPost, stateURL, guarded("lost"))
		if err != nil {
			return "", err
		}
		if stale.Status != http.StatusConflict {
			return "", fmt.Errorf("write with a stale ETag answered %d (%s) instead of 409", stale.Status, stale.Body)
		}
		if err := checkTransaction(ctx, client, key); err != nil {
			return "", err
		}
		return "read back, stale ETag refused with 409, transaction over three keys applied whole", nil
	}
}

type operation struct {
	Operation string `json:"operation"`
	Request   record `json:"request"`
}

// checkTransaction upserts two keys and deletes a third in one transaction. One
// with a stale ETag is left out on purpose: daprd takes its refusal for a
// failure, so the user's retry and breaker would close the store for a minute.
func checkTransaction(ctx context.Context, client *sidecar.Client, old string) error {
	a, b := old+"-a", old+"-b"
	operations := []operation{
		{"upsert", record{Key: a, Value: 1}},
		{"upsert", record{Key: b, Value: 2}},
		{"delete", record{Key: old}},
	}
	body := map[string]any{"operations": operations}
	if err := client.Call(ctx, http.MethodPost, stateURL+"/transaction", body, nil); err != nil {
		return err
	}
	for key, want := range map[string]string{a: "1", b: "2", old: ""} {
		got, err := client.Do(ctx, http.MethodGet, stateURL+"/"+key, nil)
		if err != nil || string(got.Body) != want {
			return fmt.Errorf("after the transaction %s holds %q, not %q: %w", key, got.Body, want, orNil(err))
		}
	}
	return nil
}

// orNil keeps %w printable when there was no error below.
func orNil(err error) error {
	if err == nil {
		return errors.New("no transport error")
	}
	return err
}

func checkRetry(client *sidecar.Client) web.Check {
	return func(ctx context.Context) (string, error) {
		var charged struct {
			Attempt int    `json:"attempt"`
			Pod     string `json:"pod"`
		}
		body := map[string]any{"order": unique("retry"), "fail_first": 1}
		if err := client.Call(ctx, http.MethodPost, "/v1.0/invoke/payment-service/method/api/charge", body, &charged); err != nil {
			return "", fmt.Errorf("a charge whose first attempt fails: %w", err)
		}
		if charged.Attempt != 2 {
			return "", fmt.Errorf("charged at attempt %d instead of 2", charged.Attempt)
		}
		return "api/charge failed once, was retried, charged by " + charged.Pod, nil
	}
}

// checkBreaker fails one call for good: the first try and its 5 retries are 6
// consecutive failures, so the breaker must open and the next call must be
// refused by the sidecar without reaching payment-service. A sidecar keeps one
// breaker per method, so the method is new each time: its breaker starts closed.
func checkBreaker(client *sidecar.Client) web.Check {
	const failures = 6
	return func(ctx context.Context) (string, error) {
		name := unique("breaker")
		target := "/v1.0/invoke/payment-service/method/api/charge/unreachable-bank/" + name
		attempts := func() (int, error) {
			var seen struct{ Attempts int }
			err := client.Call(ctx, http.MethodGet, "/v1.0/invoke/payment-service/method/api/attempts/"+name, nil, &seen)
			return seen.Attempts, err
		}
		first, err := client.Do(ctx, http.MethodPost, target, nil)
		if err != nil {
			return "", err
		}
		if first.Status < 500 {
			return "", fmt.Errorf("a charge that always fails answered %d", first.Status)
		}
		before, err := attempts()
		if err != nil {
			return "", err
		}
		second, err := client.Do(ctx, http.MethodPost, target, nil)
		if err != nil {
			return "", err
		}
		after, err := attempts()
		if err != nil {
			return "", err
		}
		seen := fmt.Sprintf("breaker opened after %d failures: next call refused with %d without reaching payment-service", before, second.Status)
		if !strings.Contains(string(second.Body), "circuit breaker is open") || before != failures || after != before {
			return "", fmt.Errorf("attempts before %d, after %d; the call after them answered %d: %s", before, after, second.Status, second.Body)
		}
		return seen, nil
	}
}

// checkGRPC calls order-service, whose protocol is gRPC, through both sidecars.
func checkGRPC(ctx context.Context) (string, error) {
	conn, err := grpc.NewClient(sidecar.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "order-service")
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "orders"})
	if err != nil {
		return "", err
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return "", fmt.Errorf("order-service reports %s", answer.GetStatus())
	}
	return "gRPC call to order-service answered SERVING", nil
}

// checkOutputBinding creates an object, reads it back and deletes it.
func checkOutputBinding(client *sidecar.Client) web.Check {
	return func(ctx context.Context) (string, error) {
		key := unique("export") + ".txt"
		call := func(operation string, data any) (sidecar.Answer, error) {
			body := map[string]any{"operation": operation, "metadata": map[string]string{"key": key}}
			if data != nil {
				body["data"] = data
			}
			answer, err := client.Do(ctx, http.MethodPost, "/v1.0/bindings/s3-output", body)
			if err == nil && answer.Status >= 300 {
				err = &sidecar.StatusError{Method: operation, Path: key, Answer: answer}
			}
			return answer, err
		}
		if _, err := call("create", "exported "+key); err != nil {
			return "", err
		}
		got, err := call("get", nil)
		if err != nil {
			return "", err
		}
		if !strings.Contains(plain(got.Body), "exported "+key) {
			return "", fmt.Errorf("object %s holds %q", key, got.Body)
		}
		if _, err := call("delete", nil); err != nil {
			return "", err
		}
		return "object written, read back and deleted in bucket fuse-exports", nil
	}
}

// plain is a binding's answer as text: it may be a JSON string or base64 of it.
func plain(body []byte) string {
	var text string
	if json.Unmarshal(body, &text) != nil {
		text = string(body)
	}
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		return string(decoded)
	}
	return text
}

// checkOpenBao puts a fresh value into OpenBao and reads it through the sidecar.
func checkOpenBao(client *sidecar.Client) web.Check {
	return func(ctx context.Context) (string, error) {
		name, colour := unique("secret"), unique("green")
		if err := backends.StoreInOpenBao(ctx, name, "colour", colour); err != nil {
			return "", err
		}
		return "a fresh secret read from OpenBao", readSecret(ctx, client, "openbao-secrets/"+name, colour)
	}
}

// checkKubernetesSecret reads a Secret of the samples' manifests.
func checkKubernetesSecret(client *sidecar.Client) web.Check {
	return func(ctx context.Context) (string, error) {
		path := "kubernetes/order-secret?metadata.namespace=" + namespace()
		return "Secret order-secret read from Kubernetes", readSecret(ctx, client, path, web.Env("ORDER_SECRET_COLOUR", ""))
	}
}

func readSecret(ctx context.Context, client *sidecar.Client, path, colour string) error {
	var secret map[string]string
	if err := client.Call(ctx, http.MethodGet, "/v1.0/secrets/"+path, nil, &secret); err != nil {
		return err
	}
	if colour == "" || secret["colour"] != colour {
		return fmt.Errorf("secret %s holds colour %q, not %q", path, secret["colour"], colour)
	}
	return nil
}
