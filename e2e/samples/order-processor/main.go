// Command order-processor takes orders from `pubsub`/`orders` and tries each
// building block through its sidecar when asked to: `GET /check/<block>` answers
// with a verdict. What several pods must show together (delivery, the lock,
// actors on two hosts) it offers as single steps, for the caller to combine.
package main

import (
	"log/slog"
	"net/http"
	"os"
	"time"

	"samples/internal/backends"
	"samples/internal/sidecar"
	"samples/internal/web"
)

func main() {
	client := sidecar.New()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

	newInbox().routes(mux, client)
	newActors(client).routes(mux)
	newSettings(client).routes(mux)
	newLoad(client).routes(mux)
	lockRoutes(mux, client)

	const daprd = "kubectl -n fuse logs -l app=order-processor -c daprd"
	mux.HandleFunc("GET /check/state", web.Handle(30*time.Second, "Component statestore; "+daprd, checkState(client)))
	mux.HandleFunc("GET /check/invocation/retry", web.Handle(40*time.Second, "Resiliency fuse-resiliency; "+daprd, checkRetry(client)))
	mux.HandleFunc("GET /check/invocation/breaker", web.Handle(90*time.Second, "Resiliency fuse-resiliency; "+daprd, checkBreaker(client)))
	mux.HandleFunc("GET /check/invocation/grpc", web.Handle(20*time.Second, "kubectl -n fuse logs deploy/order-service -c daprd", checkGRPC))
	mux.HandleFunc("GET /check/binding/output", web.Handle(30*time.Second, "Component s3-output; "+daprd, checkOutputBinding(client)))
	mux.HandleFunc("GET /check/secrets/openbao", web.Handle(15*time.Second, "Component openbao-secrets; "+daprd, checkOpenBao(client)))
	mux.HandleFunc("GET /check/secrets/kubernetes", web.Handle(15*time.Second, "Role samples; "+daprd, checkKubernetesSecret(client)))
	for name, check := range backends.Checks {
		mux.HandleFunc("GET /check/backend/"+name, web.Handle(10*time.Second, "the backend's own log", check))
	}
	if err := web.Serve(web.Env("LISTEN", ":8080"), mux); err != nil {
		slog.Error("order-processor ended", "error", err)
		os.Exit(1)
	}
}

func namespace() string { return web.Env("NAMESPACE", "fuse") }
