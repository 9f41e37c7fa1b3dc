// Records what upstream's operator sends for the objects beside this file.
//
// Upstream's functions are not exported, so this file goes into a copy of its module, as
// pkg/operator/api/record_test.go; then, there:
//
//	GOLDEN=<this folder> go test -run TestRecord ./pkg/operator/api
//
// Objects are read as the API server sends them; Secret "secret" exists with the keys
// "key" and "secret", "missing-key" exists without any.
package api

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	resiliencyapi "github.com/dapr/dapr/pkg/apis/resiliency/v1alpha1"
	subapi "github.com/dapr/dapr/pkg/apis/subscriptions/v2alpha1"
	wfaclapi "github.com/dapr/dapr/pkg/apis/workflowaccesspolicy/v1alpha1"
)

type secrets struct{ client.Client }

func (secrets) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	if key.Name == "secret" {
		obj.(*corev1.Secret).Data = map[string][]byte{"key": []byte("a<b>&\u2028\xff\"\\/"), "secret": []byte("own")}
	}
	return nil
}

func record[T any](t *testing.T, path string, resolve func(context.Context, *T, string, client.Client) error) {
	in, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err = json.Unmarshal(in, &object); err != nil {
		t.Fatal(err)
	}
	if resolve != nil {
		if err = resolve(t.Context(), &object, "fuse", secrets{}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := json.Marshal(&object)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(filepath.Dir(path), "..", "upstream", filepath.Base(path))
	if err = os.WriteFile(to, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRecord(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(os.Getenv("GOLDEN"), "objects", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no objects in $GOLDEN/objects", err)
	}
	for _, path := range files {
		switch kind, _, _ := strings.Cut(filepath.Base(path), "."); kind {
		case "Component":
			record(t, path, processComponentSecrets)
		case "Configuration":
			record(t, path, processConfigurationSecrets)
		case "HTTPEndpoint":
			record(t, path, processHTTPEndpointSecrets)
		case "MCPServer":
			record(t, path, processMCPServerSecrets)
		case "Resiliency":
			record[resiliencyapi.Resiliency](t, path, nil)
		case "Subscription":
			record[subapi.Subscription](t, path, nil)
		case "WorkflowAccessPolicy":
			record[wfaclapi.WorkflowAccessPolicy](t, path, nil)
		default:
			t.Fatal(path)
		}
	}
}

