// Command order-service is the gRPC application of the user's Deployment of
// that name: it serves gRPC's health protocol on 8080, which the other samples
// call through their sidecars to show that `app-protocol: grpc` is in effect.
package main

import (
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"samples/internal/web"
)

func main() {
	if err := run(); err != nil {
		slog.Error("order-service ended", "error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := web.SignalContext()
	defer stop()
	listener, err := net.Listen("tcp", web.Env("LISTEN", ":8080"))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	state := health.NewServer()
	state.SetServingStatus("orders", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, state)
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	slog.Info("serving gRPC", "address", listener.Addr().String(), "pod", web.PodName())
	return server.Serve(listener)
}
