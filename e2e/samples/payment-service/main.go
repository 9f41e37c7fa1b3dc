// Command payment-service charges orders: by invocation (`api/charge`, which can
// be told to fail so that the user's Resiliency is seen at work) and in a
// workflow that outlives its pod. It also has a handler at the path of the
// user's subscription, which must never be called: the subscription is scoped
// to order-processor.
package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"samples/internal/web"
)

type service struct {
	mu       sync.Mutex
	attempts map[string]int
	orders   atomic.Int64
}

// charge is the body of a charge: its first `fail_first` attempts are refused.
type charge struct {
	Order     string `json:"order"`
	FailFirst int    `json:"fail_first"`
}

func main() {
	s := &service{attempts: make(map[string]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /api/charge", s.charge)
	mux.HandleFunc("POST /api/charge/unreachable-bank/{order}", s.chargeUnreachable)
	mux.HandleFunc("GET /api/attempts/{order}", s.attemptsOf)
	mux.HandleFunc("POST /api/orders/handle", func(w http.ResponseWriter, _ *http.Request) {
		s.orders.Add(1)
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("GET /seen/orders", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, map[string]any{"pod": web.PodName(), "count": s.orders.Load()})
	})

	ctx, stop := web.SignalContext()
	defer stop()
	settle, err := startSettling(ctx)
	if err != nil {
		slog.Error("workflow worker not started", "error", err)
		os.Exit(1)
	}
	settle.routes(mux)
	if err := web.Serve(web.Env("LISTEN", ":8080"), mux); err != nil {
		slog.Error("payment-service ended", "error", err)
		os.Exit(1)
	}
}

func (s *service) count(order string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.attempts) > 100_000 { // a long load test must not grow the map for ever
		clear(s.attempts)
	}
	s.attempts[order]++
	return s.attempts[order]
}

func (s *service) charge(w http.ResponseWriter, r *http.Request) {
	var body charge
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Order == "" {
		web.JSON(w, http.StatusBadRequest, map[string]string{"error": "the body must be JSON with an order"})
		return
	}
	attempt := s.count(body.Order)
	if attempt <= body.FailFirst {
		web.JSON(w, http.StatusServiceUnavailable, map[string]any{"error": "told to fail", "attempt": attempt})
		return
	}
	web.JSON(w, http.StatusOK, map[string]any{"order": body.Order, "attempt": attempt, "pod": web.PodName()})
}

func (s *service) chargeUnreachable(w http.ResponseWriter, r *http.Request) {
	attempt := s.count(r.PathValue("order"))
	web.JSON(w, http.StatusServiceUnavailable, map[string]any{"error": "the bank cannot be reached", "attempt": attempt})
}

func (s *service) attemptsOf(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	web.JSON(w, http.StatusOK, map[string]int{"attempts": s.attempts[r.PathValue("order")]})
}
