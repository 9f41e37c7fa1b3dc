// Records what upstream's injector answers to the cases in ../cases.json, into
// ../upstream.json. Each case runs against upstream's own HTTPS server, with its own
// environment parser, in this process; nothing of upstream is copied here.
//
// Upstream adds the token volume only where a token file exists, so one of
// /var/run/secrets/dapr.io/sentrytoken/token and
// /var/run/secrets/kubernetes.io/serviceaccount/token must exist while this runs.
//
//	go run . ../cases.json ../upstream.json
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/api/resource"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/dapr/dapr/pkg/client/clientset/versioned"
	"github.com/dapr/dapr/pkg/healthz"
	"github.com/dapr/dapr/pkg/injector/service"
	"github.com/dapr/dapr/pkg/security/token"
)

type component struct {
	Name      string   `json:"name"`
	Container *string  `json:"container"`
	Scopes    []string `json:"scopes"`
}

type testCase struct {
	Name        string            `json:"name"`
	Env         map[string]string `json:"env"`
	Scheduler   *bool             `json:"scheduler"`
	MTLS        *bool             `json:"mtls"`
	Components  []component       `json:"components"`
	User        *json.RawMessage  `json:"user"`
	Pod         json.RawMessage   `json:"pod"`
	Body        *string           `json:"body"`
	ContentType *string           `json:"contentType"`
	Path        string            `json:"path"`
}

type file struct {
	Env        map[string]string `json:"env"`
	Anchors    string            `json:"anchors"`
	Cases      []testCase        `json:"cases"`
	Quantities []string          `json:"quantities"`
	Globs      [][2]string       `json:"globs"`
}

type record struct {
	Status      int              `json:"status"`
	ContentType string           `json:"contentType"`
	Text        *string          `json:"text,omitempty"`
	Review      *json.RawMessage `json:"review,omitempty"`
	Patch       *json.RawMessage `json:"patch,omitempty"`
}

type recorded struct {
	Cases      map[string]record `json:"cases"`
	Quantities map[string]string `json:"quantities"`
	Globs      []string          `json:"globs"`
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

func main() {
	if !token.HasKubernetesToken() {
		must(0, fmt.Errorf("no token file: see the comment at the top of main.go"))
	}
	var in file
	dec := json.NewDecoder(bytes.NewReader(must(os.ReadFile(os.Args[1]))))
	dec.DisallowUnknownFields()
	must(0, dec.Decode(&in))

	out := recorded{Cases: map[string]record{}, Quantities: map[string]string{}}
	for _, c := range in.Cases {
		fmt.Println(c.Name)
		out.Cases[c.Name] = settled(in, c)
	}
	for _, q := range in.Quantities {
		out.Quantities[q] = "error"
		if parsed, err := resource.ParseQuantity(q); err == nil {
			var text string
			must(0, json.Unmarshal(must(json.Marshal(parsed)), &text))
			out.Quantities[q] = text
		}
	}
	for _, g := range in.Globs {
		match, err := path.Match(g[0], g[1])
		// Upstream checks a pattern once against the empty name, at start.
		if _, bad := path.Match(g[0], ""); bad != nil {
			err = bad
		}
		verdict := fmt.Sprint(match)
		if err != nil {
			verdict = "error"
		}
		out.Globs = append(out.Globs, verdict)
	}
	must(0, os.WriteFile(os.Args[2], lines(out), 0o644))
}

// lines writes one line for each case, so that a diff shows which cases changed.
func lines(out recorded) []byte {
	var text bytes.Buffer
	text.WriteString("{\"cases\":{\n")
	names := make([]string, 0, len(out.Cases))
	for name := range out.Cases {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		if i > 0 {
			text.WriteString(",\n")
		}
		fmt.Fprintf(&text, "%s:%s", must(json.Marshal(name)), must(json.Marshal(out.Cases[name])))
	}
	fmt.Fprintf(&text, "\n},\n\"quantities\":%s,\n\"globs\":%s}\n",
		must(json.Marshal(out.Quantities)), must(json.Marshal(out.Globs)))
	return text.Bytes()
}

// settled repeats a case until the patch names containers in ascending order: upstream walks
// a map, so its order between containers is random.
func settled(in file, c testCase) record {
	var last record
	for range 200 {
		last = run(in, c)
		if last.Patch == nil || ascending(*last.Patch) {
			return last
		}
	}
	return last
}

func ascending(patch json.RawMessage) bool {
	var ops []struct{ Path string }
	must(0, json.Unmarshal(patch, &ops))
	for _, kind := range []string{"/env", "/volumeMounts"} {
		var seen []string
		for _, op := range ops {
			if strings.Contains(op.Path, kind) {
				seen = append(seen, strings.Split(op.Path, "/")[3])
			}
		}
		if strings.Contains(string(patch), "DAPR_COMPONENT_SOCKETS_FOLDER") {
			// Application containers come first, then components: each ascending.
			continue
		}
		if !sort.StringsAreSorted(seen) {
			return false
		}
	}
	return true
}

func run(in file, c testCase) record {
	os.Clearenv()
	for _, env := range []map[string]string{in.Env, c.Env} {
		for k, v := range env {
			if v == "<unset>" {
				os.Unsetenv(k)
			} else {
				os.Setenv(k, v)
			}
		}
	}
	cfg := must(service.GetConfig())
	api := apiServer(cfg.Namespace, c)
	defer api.Close()
	port := freePort()
	inj := must(service.NewInjector(service.Options{
		Config:                  cfg,
		DaprClient:              must(versioned.NewForConfig(&rest.Config{Host: api.URL})),
		KubeClient:              kubefake.NewSimpleClientset(),
		Port:                    port,
		Healthz:                 healthz.New(),
		SchedulerEnabled:        c.Scheduler == nil || *c.Scheduler,
		ControlPlaneNamespace:   cfg.Namespace,
		ControlPlaneTrustDomain: cfg.ControlPlaneTrustDomain,
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	td := spiffeid.RequireTrustDomainFromString(cfg.ControlPlaneTrustDomain)
	sentry := spiffeid.RequireFromSegments(td, "ns", cfg.Namespace, "dapr-sentry")
	go func() {
		done <- inj.Run(ctx, serverTLS(), sentry, func(context.Context) ([]byte, error) {
			return []byte(in.Anchors), nil
		})
	}()
	defer func() { cancel(); <-done }()
	return ask(port, c)
}

// apiServer knows the objects of one case. (The fake client of upstream's own tests registers
// its kinds under another group than the one upstream asks for.)
func apiServer(namespace string, c testCase) *httptest.Server {
	const group = "/apis/dapr.io/v1alpha1/namespaces/"
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == group+namespace+"/configurations/daprsystem" && c.MTLS != nil:
			must(0, json.NewEncoder(w).Encode(map[string]any{
				"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
				"metadata": map[string]any{"name": "daprsystem", "namespace": namespace},
				"spec":     map[string]any{"mtls": map[string]any{"enabled": *c.MTLS}},
			}))
		case r.URL.Path == group+"shop/components":
			items := []any{}
			for _, comp := range c.Components {
				meta := map[string]any{"name": comp.Name, "namespace": "shop"}
				if comp.Container != nil {
					meta["annotations"] = map[string]string{"dapr.io/component-container": *comp.Container}
				}
				items = append(items, map[string]any{
					"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": meta, "scopes": comp.Scopes,
				})
			}
			must(0, json.NewEncoder(w).Encode(map[string]any{
				"apiVersion": "dapr.io/v1alpha1", "kind": "ComponentList", "metadata": map[string]any{}, "items": items,
			}))
		default:
			w.WriteHeader(http.StatusNotFound)
			must(0, json.NewEncoder(w).Encode(map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
			}))
		}
	}))
}

func ask(port int, c testCase) record {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	target := c.Path
	if target == "" {
		target = "/mutate"
	}
	contentType := "application/json"
	if c.ContentType != nil {
		contentType = *c.ContentType
	}
	for {
		req := must(http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d%s", port, target), bytes.NewReader(body(c))))
		req.Header.Set("Content-Type", contentType)
		resp, err := client.Do(req)
		if err != nil {
			if strings.Contains(err.Error(), "connection refused") {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			must(0, err)
		}
		defer resp.Body.Close()
		return decode(resp, must(io.ReadAll(resp.Body)))
	}
}

func body(c testCase) []byte {
	if c.Body != nil {
		return []byte(*c.Body)
	}
	user := json.RawMessage(`{"username":"system:serviceaccount:kube-system:replicaset-controller"}`)
	if c.User != nil {
		user = *c.User
	}
	return must(json.Marshal(map[string]any{
		"apiVersion": "admission.k8s.io/v1",
		"kind":       "AdmissionReview",
		"request": map[string]any{
			"uid":       "7f0e3a52-0000-4000-8000-000000000001",
			"kind":      map[string]string{"group": "", "version": "v1", "kind": "Pod"},
			"namespace": "shop",
			"operation": "CREATE",
			"userInfo":  user,
			"object":    c.Pod,
		},
	}))
}

func decode(resp *http.Response, text []byte) record {
	rec := record{Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type")}
	var review map[string]any
	if json.Unmarshal(text, &review) != nil {
		plain := string(text)
		rec.Text = &plain
		return rec
	}
	if response, ok := review["response"].(map[string]any); ok {
		if _, ok := response["patch"]; ok {
			var typed struct {
				Response struct{ Patch []byte } `json:"response"`
			}
			must(0, json.Unmarshal(text, &typed))
			raw := json.RawMessage(typed.Response.Patch)
			rec.Patch = &raw
			delete(response, "patch")
		}
	}
	raw := json.RawMessage(must(json.Marshal(review)))
	rec.Review = &raw
	return rec
}

func freePort() int {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func serverTLS() *tls.Config {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
