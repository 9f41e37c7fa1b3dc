// Package web holds what every sample serves the same way: the verdict of a
// check as JSON, request logging, and a server that ends when it is told to.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Verdict is what a check answers: whether it held, what was seen, and where a
// person should look when it did not.
type Verdict struct {
	OK   bool   `json:"ok"`
	Seen string `json:"seen"`
	Look string `json:"look,omitempty"`
}

// Check is one thing to try for real. It returns what it saw.
type Check func(ctx context.Context) (string, error)

// Handle answers a request by running the check, with 200 for a check that
// held and 500 for one that did not; `look` goes out only with a failure.
func Handle(limit time.Duration, look string, check Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		seen, err := check(ctx)
		verdict := Verdict{OK: err == nil, Seen: seen}
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			verdict.Look = look
			verdict.Seen = err.Error()
			slog.Error("check failed", "path", r.URL.Path, "error", err)
		}
		JSON(w, status, verdict)
	}
}

// JSON writes a value with a status.
func JSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		slog.Warn("answer not written", "error", err)
	}
}

// PodName is the pod this process runs in, which Kubernetes gives as host name.
func PodName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// Until calls `probe` every 200 ms until it reports true, fails, or ctx ends.
func Until(ctx context.Context, what string, probe func() (bool, error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := probe()
		if err != nil {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// Serve serves until SIGTERM or SIGINT, then lets requests finish for 5 s.
func Serve(addr string, handler http.Handler) error {
	ctx, stop := SignalContext()
	defer stop()
	// No ReadHeaderTimeout: the sidecar next door keeps connections that it dialled and has not used yet,
	// and such a limit would close them under its first request.
	server := &http.Server{Addr: addr, Handler: handler}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	slog.Info("serving", "address", addr, "pod", PodName())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// SignalContext ends with SIGTERM or SIGINT.
func SignalContext() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}

// Env is an environment variable or, when it is empty, a default.
func Env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
