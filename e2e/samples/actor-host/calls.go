package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"samples/internal/sidecar"
	"samples/internal/web"
)

// callLimit is how long an answer is waited for.
const callLimit = 30 * time.Second

// plan is what a caller does: `rate` short calls a second, spread evenly over
// `actors` actors whether or not earlier calls were answered, and one long call
// after the other to each of `long`.
type plan struct {
	Type       string   `json:"type"`
	Rate       int      `json:"rate"`
	Actors     int      `json:"actors"`
	First      int      `json:"first"`
	TurnMS     int      `json:"turn_ms"`
	Long       []string `json:"long"`
	LongTurnMS int      `json:"long_turn_ms"`
}

// call is what came of one call; `turn` is the turn that answered it.
type call struct {
	Actor  string `json:"actor"`
	Begin  int64  `json:"begin"`
	Took   int64  `json:"took"`
	TurnMS int    `json:"turn_ms"`
	Turn   string `json:"turn,omitempty"`
	Error  string `json:"error,omitempty"`
}

type caller struct {
	client  *sidecar.Client
	mu      sync.Mutex
	stop    context.CancelFunc
	running *sync.WaitGroup
	calls   []call
}

func newCaller(client *sidecar.Client) *caller { return &caller{client: client} }

func (c *caller) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /calls/start", func(w http.ResponseWriter, r *http.Request) {
		var todo plan
		if err := json.NewDecoder(r.Body).Decode(&todo); err != nil || todo.Rate < 1 || todo.Actors < 1 {
			http.Error(w, fmt.Sprintf("a plan with rate and actors is needed: %v", err), http.StatusBadRequest)
			return
		}
		c.start(todo)
		web.JSON(w, http.StatusOK, todo)
	})
	mux.HandleFunc("POST /calls/stop", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, map[string]any{"pod": web.PodName(), "calls": c.halt()})
	})
}

// halt starts no more calls, waits for those that run and returns all.
func (c *caller) halt() []call {
	c.mu.Lock()
	stop, running := c.stop, c.running
	c.stop, c.running = nil, nil
	c.mu.Unlock()
	if stop != nil {
		stop()
		running.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// start begins anew: earlier calls are forgotten.
func (c *caller) start(todo plan) {
	c.halt()
	ctx, cancel := context.WithCancel(context.Background())
	running := new(sync.WaitGroup)
	c.mu.Lock()
	c.stop, c.running, c.calls = cancel, running, []call{}
	c.mu.Unlock()
	running.Go(func() { c.short(ctx, todo, running) })
	for _, actor := range todo.Long {
		running.Go(func() { c.long(ctx, todo, actor) })
	}
}

func (c *caller) short(ctx context.Context, todo plan, running *sync.WaitGroup) {
	tick := time.NewTicker(time.Second / time.Duration(todo.Rate))
	defer tick.Stop()
	for n := todo.First; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		actor := fmt.Sprintf("short-%d", n%todo.Actors)
		running.Go(func() { c.make(todo.Type, actor, todo.TurnMS) })
	}
}

// long pauses between its calls, shortly after a failure: whoever was refused
// while an actor moves comes back at once, when it matters.
func (c *caller) long(ctx context.Context, todo plan, actor string) {
	for ctx.Err() == nil {
		pause := 300 * time.Millisecond
		if !c.make(todo.Type, actor, todo.LongTurnMS) {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// make makes one call and keeps what came of it.
func (c *caller) make(actorType, actor string, turnMS int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	began := time.Now()
	var answer told
	err := c.client.Call(ctx, http.MethodPost, "/v1.0/actors/"+actorType+"/"+actor+"/method/run", asked{TurnMS: turnMS}, &answer)
	done := call{Actor: actor, Begin: began.UnixNano(), Took: time.Since(began).Nanoseconds(), TurnMS: turnMS, Turn: answer.Turn}
	if err != nil {
		done.Error, done.Turn = err.Error(), ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, done)
	return err == nil
}
