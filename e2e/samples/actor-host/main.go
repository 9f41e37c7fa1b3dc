// Command actor-host measures who runs the turns of actors. Pods with ACTOR_TYPE
// host that type and write every turn into a journal in Valkey before and after
// it; pods without call actors through their sidecar and keep what came of every
// call. The clock is the node's, so times of all pods can be compared.
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"time"

	"samples/internal/sidecar"
	"samples/internal/web"
)

// afterTerm is how long a host serves on after SIGTERM: its sidecar gets the
// signal at the same time and drains actors, whose turns need their host.
const afterTerm = 8 * time.Second

func main() {
	client := sidecar.New()
	journal := newJournal(web.Env("JOURNAL", "turns"))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	newHost(os.Getenv("ACTOR_TYPE"), journal).routes(mux)
	newCaller(client).routes(mux)
	journal.routes(mux)
	if err := serve(web.Env("LISTEN", ":8080"), mux); err != nil {
		slog.Error("actor-host ended", "error", err)
		os.Exit(1)
	}
}

func serve(address string, handler http.Handler) error {
	ctx, stop := web.SignalContext()
	defer stop()
	// No ReadHeaderTimeout, see web.Serve.
	server := &http.Server{Addr: address, Handler: handler}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	slog.Info("serving", "address", address, "pod", web.PodName())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(afterTerm):
	}
	drain, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Whoever still waits is cut off: the pod's own time runs out.
	_ = server.Shutdown(drain)
	return nil
}
