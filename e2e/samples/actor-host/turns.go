package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"samples/internal/backends"
	"samples/internal/web"
)

// journal is a text in Valkey with two lines for each turn, appended by all
// hosts: "b <turn> <actor> <pod> <begin> <length>" and "e <turn> <end>", and
// between them "c <turn> <time>" if the sidecar cut the turn off; times in
// nanoseconds. A turn runs only once its first line is stored, so none is
// missing, whatever becomes of the host or of the caller.
type journal struct {
	key     string
	session backends.Session
}

func newJournal(key string) *journal { return &journal{key: key} }

func (j *journal) append(line string) error {
	// Never the request's context: a caller that gives up must not cost a line.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := j.session.Do(ctx, "APPEND", j.key, line+"\n")
	return err
}

func (j *journal) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /journal", func(w http.ResponseWriter, r *http.Request) {
		text, err := j.session.Do(r.Context(), "GET", j.key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(text))
	})
}

// host runs turns of one actor type by the protocol that a sidecar speaks to
// its application. An empty type hosts nothing.
type host struct {
	actorType string
	journal   *journal
	turns     atomic.Uint64
}

func newHost(actorType string, journal *journal) *host {
	return &host{actorType: actorType, journal: journal}
}

func (h *host) routes(mux *http.ServeMux) {
	entities := []string{}
	if h.actorType != "" {
		entities = append(entities, h.actorType)
	}
	mux.HandleFunc("GET /dapr/config", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, map[string]any{
			"entities": entities, "actorIdleTimeout": "10m", "actorScanInterval": "30s",
			"drainOngoingCallTimeout": "2s", "drainRebalancedActors": true,
		})
	})
	mux.HandleFunc("DELETE /actors/{type}/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("PUT /actors/{type}/{id}/method/run", h.run)
}

// asked is what a call asks of a turn, and told is what the turn answers.
type asked struct {
	TurnMS int `json:"turn_ms"`
}
type told struct {
	Turn string `json:"turn"`
}

// run is one turn. It lasts as long as it was asked to, also when its sidecar
// has cut it off: so does the code of many applications.
func (h *host) run(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	var ask asked
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	length := time.Duration(ask.TurnMS) * time.Millisecond
	turn := fmt.Sprintf("%s/%d", web.PodName(), h.turns.Add(1))
	line := fmt.Sprintf("b %s %s %s %d %d", turn, r.PathValue("id"), web.PodName(), begin.UnixNano(), length.Nanoseconds())
	if err := h.journal.append(line); err != nil {
		http.Error(w, "no turn, the journal is not written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	end := time.After(time.Until(begin.Add(length)))
	select {
	case <-end:
	case <-r.Context().Done():
		if err := h.journal.append(fmt.Sprintf("c %s %d", turn, time.Now().UnixNano())); err != nil {
			slog.Error("cut of a turn not written", "turn", turn, "error", err)
		}
		<-end
	}
	if err := h.journal.append(fmt.Sprintf("e %s %d", turn, time.Now().UnixNano())); err != nil {
		slog.Error("end of a turn not written", "turn", turn, "error", err)
		http.Error(w, "the journal is not written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	web.JSON(w, http.StatusOK, told{Turn: turn})
}
