package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"samples/internal/sidecar"
	"samples/internal/web"
)

// inbox remembers what came in from outside: orders and cron ticks.
type inbox struct {
	mu         sync.Mutex
	deliveries map[string]int
	ticks      int
}

// order is what is published. An order that asks for it has its first delivery
// to a pod refused: at-least-once delivery must then bring it again.
type order struct {
	ID          string `json:"id"`
	RefuseFirst bool   `json:"refuse_first,omitempty"`
}

func newInbox() *inbox { return &inbox{deliveries: make(map[string]int)} }

func (i *inbox) routes(mux *http.ServeMux, client *sidecar.Client) {
	mux.HandleFunc("POST /api/orders/handle", i.handle)
	mux.HandleFunc("POST /every-two-seconds", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		i.ticks++
		i.mu.Unlock()
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("GET /seen/orders", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		web.JSON(w, http.StatusOK, map[string]any{"pod": web.PodName(), "deliveries": i.deliveries})
	})
	mux.HandleFunc("GET /seen/ticks", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		web.JSON(w, http.StatusOK, map[string]any{"pod": web.PodName(), "count": i.ticks})
	})
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		var orders []order
		if err := json.NewDecoder(r.Body).Decode(&orders); err != nil {
			web.JSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		for _, order := range orders {
			if err := client.Call(r.Context(), http.MethodPost, "/v1.0/publish/pubsub/orders", order, nil); err != nil {
				web.JSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
				return
			}
		}
		web.JSON(w, http.StatusOK, map[string]int{"published": len(orders)})
	})
}

func (i *inbox) handle(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Topic string `json:"topic"`
		Data  order  `json:"data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil || event.Data.ID == "" {
		slog.Error("an order that cannot be read is dropped", "error", err)
		web.JSON(w, http.StatusOK, map[string]string{"status": "DROP"})
		return
	}
	i.mu.Lock()
	if len(i.deliveries) > 50_000 { // load tests publish without end
		clear(i.deliveries)
	}
	i.deliveries[event.Data.ID]++
	count := i.deliveries[event.Data.ID]
	i.mu.Unlock()
	if event.Data.RefuseFirst && count == 1 {
		web.JSON(w, http.StatusInternalServerError, map[string]string{"error": fmt.Sprintf("order %s: told to refuse it once", event.Data.ID)})
		return
	}
	web.JSON(w, http.StatusOK, map[string]string{"status": "SUCCESS"})
}
