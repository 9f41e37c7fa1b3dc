package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"samples/internal/sidecar"
	"samples/internal/web"
)

// maxFailures is how many failures of a kind are kept: three minutes of them at 20 a second.
const maxFailures = 3600

// load makes a steady stream of calls of each kind and keeps every failure with
// its time, so that a test can take things away meanwhile and see what it cost.
type load struct {
	client *sidecar.Client
	mu     sync.Mutex
	stop   context.CancelFunc
	kinds  map[string]*tally
}

type tally struct {
	Calls    int           `json:"calls"`
	Failed   int           `json:"failed"`
	Slowest  time.Duration `json:"slowest_ns"`
	Failures []failure     `json:"failures"`
}

type failure struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

func newLoad(client *sidecar.Client) *load {
	return &load{client: client, kinds: make(map[string]*tally)}
}

func (l *load) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /load/start", func(w http.ResponseWriter, r *http.Request) {
		rate, err := strconv.Atoi(r.URL.Query().Get("rate"))
		if err != nil || rate < 1 || rate > 1000 {
			web.JSON(w, http.StatusBadRequest, map[string]string{"error": "rate must be 1 to 1000 calls a second"})
			return
		}
		l.start(rate, strings.FieldsFunc(r.URL.Query().Get("peers"), func(c rune) bool { return c == ',' }))
		web.JSON(w, http.StatusOK, map[string]int{"rate": rate})
	})
	mux.HandleFunc("POST /call/{app}", func(w http.ResponseWriter, r *http.Request) {
		if err := l.callPeer(r.Context(), r.PathValue("app")); err != nil {
			web.JSON(w, http.StatusBadGateway, map[string]string{"error": err.Error()})
			return
		}
		web.JSON(w, http.StatusOK, map[string]string{"called": r.PathValue("app")})
	})
	mux.HandleFunc("POST /load/stop", func(w http.ResponseWriter, _ *http.Request) {
		l.halt()
		l.report(w)
	})
	mux.HandleFunc("GET /load/report", func(w http.ResponseWriter, _ *http.Request) { l.report(w) })
}

func (l *load) report(w http.ResponseWriter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	web.JSON(w, http.StatusOK, map[string]any{"pod": web.PodName(), "now": time.Now().UTC(), "kinds": l.kinds})
}

func (l *load) halt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

// callPeer invokes another application of this kind, which answers without a body.
func (l *load) callPeer(ctx context.Context, app string) error {
	return l.client.Call(ctx, http.MethodGet, "/v1.0/invoke/"+app+"/method/healthz", nil, nil)
}

// start begins anew: earlier tallies are dropped. Each peer is a kind of call of its own.
func (l *load) start(rate int, peers []string) {
	l.halt()
	ctx, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	l.stop = cancel
	l.kinds = make(map[string]*tally)
	l.mu.Unlock()
	calls := map[string]func(context.Context, int) error{
		"state": func(ctx context.Context, n int) error {
			key := fmt.Sprintf("load-%s-%d", web.PodName(), n%100)
			return l.client.Call(ctx, http.MethodPost, stateURL, []record{{Key: key, Value: n}}, nil)
		},
		"invoke": func(ctx context.Context, n int) error {
			body := map[string]any{"order": fmt.Sprintf("load-%d", n%1000)}
			return l.client.Call(ctx, http.MethodPost, "/v1.0/invoke/payment-service/method/api/charge", body, nil)
		},
		"publish": func(ctx context.Context, n int) error {
			return l.client.Call(ctx, http.MethodPost, "/v1.0/publish/pubsub/orders", order{ID: fmt.Sprintf("load-%d", n%1000)}, nil)
		},
		"actor": func(ctx context.Context, n int) error {
			return l.client.Call(ctx, http.MethodPost, actorURL(fmt.Sprintf("load-%d", n%10))+"/method/touch", nil, nil)
		},
	}
	for _, peer := range peers {
		calls["peer "+peer] = func(ctx context.Context, _ int) error { return l.callPeer(ctx, peer) }
	}
	for kind, call := range calls {
		counts := &tally{Failures: []failure{}}
		l.mu.Lock()
		l.kinds[kind] = counts
		l.mu.Unlock()
		go l.run(ctx, rate, counts, call)
	}
}

// run starts a call at each tick, whether or not earlier ones have ended: a
// stalled call must not hide the ones that would have failed behind it.
func (l *load) run(ctx context.Context, rate int, counts *tally, call func(context.Context, int) error) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		go func() {
			began := time.Now()
			limited, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			err := call(limited, n)
			l.mu.Lock()
			defer l.mu.Unlock()
			counts.Calls++
			counts.Slowest = max(counts.Slowest, time.Since(began))
			if err != nil {
				counts.Failed++
				if len(counts.Failures) < maxFailures {
					counts.Failures = append(counts.Failures, failure{At: began.UTC(), Error: err.Error()})
				}
			}
		}()
	}
}
