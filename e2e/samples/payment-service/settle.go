package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"samples/internal/sidecar"
	"samples/internal/web"
)

// settling runs the workflow `settle`: reserve, wait for the approval, charge.
// Each activity answers with the pod that ran it, so that a restart between the
// two shows in the result.
type settling struct{ client *workflow.Client }

// reserved is the workflow's status once its first activity has ended.
const reserved = "reserved"

type settled struct {
	ReservedBy string `json:"reserved_by"`
	ApprovedBy string `json:"approved_by"`
	ChargedBy  string `json:"charged_by"`
}

func startSettling(ctx context.Context) (*settling, error) {
	conn, err := grpc.NewClient(sidecar.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	registry := workflow.NewRegistry()
	if err := errors.Join(
		registry.AddWorkflowN("settle", settle),
		registry.AddActivityN("reserve", podOfActivity),
		registry.AddActivityN("charge", podOfActivity),
	); err != nil {
		return nil, err
	}
	s := &settling{client: workflow.NewClient(conn)}
	go s.work(ctx, registry)
	return s, nil
}

// work keeps the worker's stream to the sidecar: the sidecar starts after the
// application and may restart before it.
func (s *settling) work(ctx context.Context, registry *workflow.Registry) {
	for ctx.Err() == nil {
		err := s.client.StartWorker(ctx, registry)
		if err == nil {
			slog.Info("workflow worker connected")
			return // from here on the client itself reconnects
		}
		slog.Info("workflow worker not connected yet", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func settle(ctx *workflow.WorkflowContext) (any, error) {
	var out settled
	if err := ctx.CallActivity("reserve").Await(&out.ReservedBy); err != nil {
		return nil, err
	}
	ctx.SetCustomStatus(reserved)
	if err := ctx.WaitForExternalEvent("approved", 10*time.Minute).Await(&out.ApprovedBy); err != nil {
		return nil, err
	}
	if err := ctx.CallActivity("charge").Await(&out.ChargedBy); err != nil {
		return nil, err
	}
	return out, nil
}

func podOfActivity(workflow.ActivityContext) (any, error) { return web.PodName(), nil }

func (s *settling) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /workflow/{id}/start", func(w http.ResponseWriter, r *http.Request) {
		_, err := s.client.ScheduleWorkflow(r.Context(), "settle", workflow.WithInstanceID(r.PathValue("id")))
		answer(w, map[string]string{"pod": web.PodName()}, err)
	})
	mux.HandleFunc("POST /workflow/{id}/approve", func(w http.ResponseWriter, r *http.Request) {
		err := s.client.RaiseEvent(r.Context(), r.PathValue("id"), "approved", workflow.WithEventPayload(web.PodName()))
		answer(w, map[string]string{"pod": web.PodName()}, err)
	})
	mux.HandleFunc("GET /workflow/{id}", s.status)
}

// status tells the instance's state and whether the first activity has ended:
// that is the point at which the pod may be taken away.
func (s *settling) status(w http.ResponseWriter, r *http.Request) {
	meta, err := s.client.FetchWorkflowMetadata(r.Context(), r.PathValue("id"), workflow.WithFetchPayloads(true))
	if errors.Is(err, api.ErrInstanceNotFound) {
		web.JSON(w, http.StatusNotFound, map[string]string{"error": err.Error()})
		return
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	answer(w, map[string]any{
		"pod": web.PodName(), "status": meta.String(), "output": meta.Output.GetValue(),
		"failure": meta.FailureDetails.GetErrorMessage(), "reserved": meta.CustomStatus.GetValue() == reserved,
	}, nil)
}

func answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		web.JSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	web.JSON(w, http.StatusOK, value)
}
