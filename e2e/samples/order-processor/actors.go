package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"samples/internal/sidecar"
	"samples/internal/web"
)

const actorType = "OrderActor"

// actors hosts the virtual actor OrderActor by the protocol that a sidecar
// speaks to its application. Its counts live in actor state, so they follow the
// actor from host to host.
type actors struct{ client *sidecar.Client }

// counts is the whole state of one actor.
type counts struct {
	Calls     int       `json:"calls"`
	Timers    int       `json:"timers"`
	Reminders int       `json:"reminders"`
	Last      time.Time `json:"last_reminder"`
	Host      string    `json:"host"`
}

func newActors(client *sidecar.Client) *actors { return &actors{client: client} }

func (a *actors) routes(mux *http.ServeMux) {
	hosted := []string{actorType}
	if web.Env("HOSTS_ACTORS", "yes") == "no" { // a pod that comes and goes without moving actors
		hosted = []string{}
	}
	mux.HandleFunc("GET /dapr/config", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, map[string]any{
			"entities": hosted, "actorIdleTimeout": "10m", "actorScanInterval": "30s",
			"drainOngoingCallTimeout": "5s", "drainRebalancedActors": true,
		})
	})
	mux.HandleFunc("DELETE /actors/"+actorType+"/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("PUT /actors/"+actorType+"/{id}/method/{method}", a.turn)
	mux.HandleFunc("PUT /actors/"+actorType+"/{id}/method/timer/{name}", a.turn)
	mux.HandleFunc("PUT /actors/"+actorType+"/{id}/method/remind/{name}", a.turn)

	// Calls from outside, through the sidecar, wherever the actor lives.
	mux.HandleFunc("POST /actor/{id}/{method}", func(w http.ResponseWriter, r *http.Request) {
		got, err := a.invoke(r.Context(), r.PathValue("id"), r.PathValue("method"))
		if err != nil {
			web.JSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
			return
		}
		web.JSON(w, http.StatusOK, got)
	})
	mux.HandleFunc("GET /check/actors", web.Handle(60*time.Second,
		"kubectl -n dapr-system logs dapr-placement-server-0; kubectl -n fuse logs -l app=order-processor -c daprd", a.check))
}

func (a *actors) invoke(ctx context.Context, id, method string) (counts, error) {
	var got counts
	err := a.client.Call(ctx, http.MethodPost, actorURL(id)+"/method/"+method, nil, &got)
	return got, err
}

func actorURL(id string) string { return "/v1.0/actors/" + actorType + "/" + id }

// turn is one turn of an actor: load its state, apply what happened, save.
func (a *actors) turn(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	state, err := a.load(r.Context(), id)
	if err == nil {
		err = a.apply(r, id, &state)
	}
	if err == nil {
		err = a.save(r.Context(), id, state)
	}
	if err != nil {
		web.JSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	web.JSON(w, http.StatusOK, state)
}

func (a *actors) apply(r *http.Request, id string, state *counts) error {
	state.Host = web.PodName()
	every := map[string]string{"dueTime": "0h0m1s0ms", "period": "0h0m1s0ms"}
	switch {
	case strings.Contains(r.URL.Path, "/method/timer/"):
		state.Timers++
	case strings.Contains(r.URL.Path, "/method/remind/"):
		state.Reminders++
		state.Last = time.Now().UTC()
	case r.PathValue("method") == "start":
		return errors.Join(
			a.client.Call(r.Context(), http.MethodPost, actorURL(id)+"/timers/look", every, nil),
			a.client.Call(r.Context(), http.MethodPost, actorURL(id)+"/reminders/wake", every, nil),
		)
	case r.PathValue("method") == "stop":
		return errors.Join(
			a.client.Call(r.Context(), http.MethodDelete, actorURL(id)+"/timers/look", nil, nil),
			a.client.Call(r.Context(), http.MethodDelete, actorURL(id)+"/reminders/wake", nil, nil),
		)
	case r.PathValue("method") == "status":
	default:
		state.Calls++
	}
	return nil
}

func (a *actors) load(ctx context.Context, id string) (counts, error) {
	answer, err := a.client.Do(ctx, http.MethodGet, actorURL(id)+"/state/counts", nil)
	if err != nil {
		return counts{}, err
	}
	if answer.Status == http.StatusNoContent || len(answer.Body) == 0 {
		return counts{}, nil
	}
	if answer.Status != http.StatusOK {
		return counts{}, &sidecar.StatusError{Method: "load", Path: id, Answer: answer}
	}
	var state counts
	return state, json.Unmarshal(answer.Body, &state)
}

func (a *actors) save(ctx context.Context, id string, state counts) error {
	body := []operation{{"upsert", record{Key: "counts", Value: state}}}
	return a.client.Call(ctx, http.MethodPost, actorURL(id)+"/state", body, nil)
}

// check starts a timer and a reminder on a new actor and waits until both have
// fired twice; then it asks twenty actors where they live.
func (a *actors) check(ctx context.Context) (string, error) {
	id := unique("a")
	if _, err := a.invoke(ctx, id, "start"); err != nil {
		return "", err
	}
	var last counts
	err := web.Until(ctx, "two turns each of timer and reminder", func() (bool, error) {
		var err error
		last, err = a.invoke(ctx, id, "status")
		return last.Timers >= 2 && last.Reminders >= 2, err
	})
	if err != nil {
		return "", fmt.Errorf("timer fired %d times, reminder %d: %w", last.Timers, last.Reminders, err)
	}
	if _, err := a.invoke(ctx, id, "stop"); err != nil {
		return "", err
	}
	hosts := make(map[string]int)
	for n := range 20 {
		got, err := a.invoke(ctx, fmt.Sprintf("%s-%d", id, n), "touch")
		if err != nil {
			return "", err
		}
		if got.Calls != 1 {
			return "", fmt.Errorf("actor %d counted %d calls after its first", n, got.Calls)
		}
		hosts[got.Host]++
	}
	if want, _ := strconv.Atoi(web.Env("ACTOR_HOSTS", "1")); len(hosts) < want {
		return "", fmt.Errorf("20 actors live on %v, expected %d hosts", hosts, want)
	}
	return fmt.Sprintf("timer fired %d times, reminder %d; 20 actors on %d hosts", last.Timers, last.Reminders, len(hosts)), nil
}
