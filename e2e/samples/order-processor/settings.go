package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"samples/internal/backends"
	"samples/internal/sidecar"
	"samples/internal/web"
)

const configURL = "/v1.0/configuration/settings"

// settings is the newest value of each configuration key that the sidecar told.
type settings struct {
	client *sidecar.Client
	mu     sync.Mutex
	told   map[string]string
}

func newSettings(client *sidecar.Client) *settings {
	return &settings{client: client, told: make(map[string]string)}
}

func (s *settings) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /configuration/settings/{key}", s.notified)
	mux.HandleFunc("GET /check/configuration", web.Handle(40*time.Second,
		"Component settings; kubectl -n fuse logs -l app=order-processor -c daprd", s.check))
}

func (s *settings) notified(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Items map[string]struct{ Value string }
	}
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		web.JSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	s.mu.Lock()
	for key, item := range event.Items {
		s.told[key] = item.Value
	}
	s.mu.Unlock()
	w.WriteHeader(http.StatusOK)
}

// check reads a value, subscribes to it, changes it in Valkey and waits to be
// told. Valkey announces changes only when it is configured to.
func (s *settings) check(ctx context.Context) (string, error) {
	key := unique("limit")
	if _, err := backends.Valkey(ctx, "CONFIG", "SET", "notify-keyspace-events", "KEA"); err != nil {
		return "", err
	}
	if _, err := backends.Valkey(ctx, "SET", key, "10||v0", "EX", "600"); err != nil {
		return "", err
	}
	var items map[string]struct{ Value, Version string }
	if err := s.client.Call(ctx, http.MethodGet, configURL+"?key="+key, nil, &items); err != nil {
		return "", err
	}
	if got := items[key]; got.Value != "10" || got.Version != "v0" {
		return "", fmt.Errorf("configuration key %s holds %+v, not 10 at v0", key, got)
	}
	var subscription struct{ ID string }
	if err := s.client.Call(ctx, http.MethodGet, configURL+"/subscribe?key="+key, nil, &subscription); err != nil {
		return "", err
	}
	// The subscription reaches Valkey in the background, so the change is
	// repeated with a new value until one of them is announced.
	changes := 0
	err := web.Until(ctx, "a change notification", func() (bool, error) {
		changes++
		if _, err := backends.Valkey(ctx, "SET", key, fmt.Sprintf("%d||v%d", 10+changes, changes), "EX", "600"); err != nil {
			return false, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		_, told := s.told[key]
		return told, nil
	})
	if err != nil {
		return "", err
	}
	if err := s.client.Call(ctx, http.MethodGet, configURL+"/"+subscription.ID+"/unsubscribe", nil, nil); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value := s.told[key]
	delete(s.told, key)
	return fmt.Sprintf("read 10, then told of the change to %s", value), nil
}

// lockRoutes offers the two steps of a lock, for a caller that makes two pods
// contend for it. The owner is the pod.
func lockRoutes(mux *http.ServeMux, client *sidecar.Client) {
	step := func(path string, extra map[string]any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body := map[string]any{"resourceId": r.PathValue("resource"), "lockOwner": web.PodName()}
			for key, value := range extra {
				body[key] = value
			}
			var answer map[string]any
			if err := client.Call(r.Context(), http.MethodPost, path, body, &answer); err != nil {
				web.JSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
				return
			}
			web.JSON(w, http.StatusOK, answer)
		}
	}
	mux.HandleFunc("POST /lock/{resource}/acquire", step("/v1.0-alpha1/lock/locks", map[string]any{"expiryInSeconds": 60}))
	mux.HandleFunc("POST /lock/{resource}/release", step("/v1.0-alpha1/unlock/locks", nil))
}
