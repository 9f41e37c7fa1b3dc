{{/*
Pieces shared by the components' templates. Each takes a scope (see
_values.tpl) as `.` unless it says otherwise, and emits text without a leading
line break, to be placed with nindent.
*/}}

{{- define "dapr.labels" -}}
{{- range $key, $value := .Values.global.k8sLabels }}
{{ $key }}: {{ tpl (toString $value) $ | quote }}
{{- end }}
{{- end -}}

{{/* dict "scope" . "app" "dapr-operator": labels of a workload's pods. */}}
{{- define "dapr.podLabels" -}}
app: {{ .app }}
{{- include "dapr.labels" .scope }}
{{- with .scope.Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* dict "scope" . "name" "operator" "extra" annotations */}}
{{- define "dapr.podAnnotations" -}}
dapr.io/control-plane: {{ .name }}
{{- include "dapr.prometheusAnnotations" .scope }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dapr.prometheusAnnotations" -}}
{{- if .Values.global.prometheus.enabled }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.global.prometheus.port | quote }}
prometheus.io/path: "/"
{{- end }}
{{- end -}}

{{/* dict "scope" . "extra" annotations: the key is absent when there are none. */}}
{{- define "dapr.serviceAnnotations" -}}
{{- if or .extra .scope.Values.global.prometheus.enabled }}
annotations:
  {{- include "dapr.prometheusAnnotations" .scope | nindent 2 }}
  {{- with .extra }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.metricsServicePort" -}}
{{- if .Values.global.prometheus.enabled }}
- name: metrics
  port: {{ .Values.global.prometheus.port }}
  targetPort: {{ .Values.global.prometheus.port }}
  protocol: TCP
{{- end }}
{{- end -}}

{{/* Container ports common to all: metrics, and debug (not `dict "debug" false`). */}}
{{- define "dapr.metricsContainerPort" -}}
{{- if .Values.global.prometheus.enabled }}
- name: metrics
  containerPort: {{ .Values.global.prometheus.port }}
  protocol: TCP
{{- end }}
{{- end -}}

{{- define "dapr.debugContainerPort" -}}
{{- if .Values.debug.enabled }}
- name: debug
  containerPort: {{ .Values.debug.port }}
  protocol: TCP
{{- end }}
{{- end -}}

{{/* dict "scope" . "name" image.name: an image of ours. */}}
{{- define "dapr.controlPlaneImage" -}}
{{- if contains "/" .name -}}
{{ .name }}
{{- else -}}
{{- $own := .scope.Values.global.controlPlane -}}
{{ $own.registry }}/{{ .name }}:{{ default .scope.Chart.AppVersion $own.tag }}
{{- end -}}
{{- end -}}

{{/* dict "scope" . "name" image.name: an image of upstream's. */}}
{{- define "dapr.runtimeImage" -}}
{{- if contains "/" .name -}}
{{ .name }}
{{- else -}}
{{ .scope.Values.global.registry }}/{{ .name }}:{{ .scope.Values.global.tag }}
{{- end -}}
{{- end -}}

{{/* dict "scope" . "port" 8080 */}}
{{- define "dapr.probes" -}}
{{- $values := .scope.Values -}}
{{- $port := .port -}}
{{- range $kind := list "livenessProbe" "readinessProbe" }}
{{- $probe := index $values $kind }}
{{ $kind }}:
  httpGet:
    path: /healthz
    port: {{ $port }}
  initialDelaySeconds: {{ ternary $values.debug.initialDelaySeconds $probe.initialDelaySeconds (eq $values.debug.enabled true) }}
  periodSeconds: {{ $probe.periodSeconds }}
  failureThreshold: {{ $probe.failureThreshold }}
{{- end }}
{{- end -}}

{{/* dict "scope" . "runAs" dict: the container's security context. */}}
{{- define "dapr.securityContext" -}}
{{- $values := .scope.Values -}}
{{- if eq $values.global.daprControlPlaneOs "linux" }}
securityContext:
  {{- toYaml .runAs | nindent 2 }}
  allowPrivilegeEscalation: false
  {{- if $values.debug.enabled }}
  capabilities:
    add: ["SYS_PTRACE"]
  {{- else }}
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
  {{- end }}
  {{- with $values.global.seccompProfile }}
  seccompProfile:
    type: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.namespaceEnv" -}}
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{- define "dapr.extraEnv" -}}
{{- range $name, $value := .Values.extraEnvVars }}
- name: {{ $name | quote }}
  value: {{ include "dapr.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* A scalar as text; large whole numbers without an exponent. */}}
{{- define "dapr.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end -}}

{{/* dict "scope" . "binary" "/operator" "apiVersion" true: command and what precedes the arguments. */}}
{{- define "dapr.command" -}}
command:
- {{ ternary "/dlv" .binary (eq .scope.Values.debug.enabled true) | quote }}
args:
{{- if .scope.Values.debug.enabled }}
- "--listen=:{{ .scope.Values.debug.port }}"
- "--accept-multiclient"
- "--headless=true"
- "--log"
{{- if .apiVersion }}
- "--api-version=2"
{{- end }}
- "exec"
- {{ .binary | quote }}
- "--"
{{- end }}
{{- end -}}

{{- define "dapr.logAsJsonArg" -}}
{{- if .Values.global.logAsJson }}
- "--log-as-json"
{{- end }}
{{- end -}}

{{- define "dapr.metricsArgs" -}}
{{- if .Values.global.prometheus.enabled }}
- "--enable-metrics"
- "--metrics-port"
- {{ .Values.global.prometheus.port | quote }}
{{- else }}
- "--enable-metrics=false"
{{- end }}
{{- end -}}

{{/* Identity arguments of the two StatefulSets. */}}
{{- define "dapr.tlsArgs" -}}
- "--tls-enabled"
- "--trust-domain={{ .Values.global.mtls.controlPlaneTrustDomain }}"
- "--trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt"
- "--sentry-address={{ include "dapr.sentryAddress" . }}"
- "--mode=kubernetes"
{{- end -}}

{{- define "dapr.sentryAddress" -}}
{{- if .Values.global.mtls.sentryAddress -}}
{{ .Values.global.mtls.sentryAddress }}
{{- else -}}
dapr-sentry.{{ .Release.Namespace }}.svc{{ .Values.global.dnsSuffix }}:443
{{- end -}}
{{- end -}}

{{- define "dapr.identityMounts" -}}
- name: dapr-trust-bundle
  mountPath: /var/run/secrets/dapr.io/tls
  readOnly: true
{{- if .Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  mountPath: /var/run/secrets/dapr.io/sentrytoken
  readOnly: true
{{- end }}
{{- end -}}

{{- define "dapr.identityVolumes" -}}
- name: dapr-trust-bundle
  configMap:
    name: dapr-trust-bundle
{{- if .Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  projected:
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 600
        audience: "spiffe://{{ .Values.global.mtls.controlPlaneTrustDomain }}/ns/{{ .Release.Namespace }}/dapr-sentry"
{{- end }}
{{- end -}}

{{- define "dapr.validatePodAntiAffinityPolicy" -}}
{{- if not (has .Values.global.ha.podAntiAffinityPolicy (list "preferredDuringSchedulingIgnoredDuringExecution" "requiredDuringSchedulingIgnoredDuringExecution")) -}}
{{- fail "global.ha.podAntiAffinityPolicy must be either 'preferredDuringSchedulingIgnoredDuringExecution' or 'requiredDuringSchedulingIgnoredDuringExecution'" -}}
{{- end -}}
{{- end -}}

{{/*
dict "scope" . "app" name "spread" bool "byPolicy" bool: node and pod affinity.
`byPolicy` honours global.ha.podAntiAffinityPolicy (the StatefulSets do).
*/}}
{{- define "dapr.affinity" -}}
{{- $global := .scope.Values.global -}}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions:
        - key: kubernetes.io/os
          operator: In
          values:
          - {{ $global.daprControlPlaneOs }}
        {{- with $global.daprControlPlaneArch }}
        - key: kubernetes.io/arch
          operator: In
          values:
          - {{ . }}
        {{- end }}
{{- if .spread }}
{{- if .byPolicy }}{{ include "dapr.validatePodAntiAffinityPolicy" .scope }}{{ end }}
  podAntiAffinity:
  {{- if and .byPolicy (eq $global.ha.podAntiAffinityPolicy "requiredDuringSchedulingIgnoredDuringExecution") }}
    requiredDuringSchedulingIgnoredDuringExecution:
    - labelSelector:
        matchExpressions:
        - key: app
          operator: In
          values:
          - {{ .app }}
      topologyKey: {{ $global.ha.topologyKey }}
  {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        labelSelector:
          matchExpressions:
          - key: app
            operator: In
            values:
            - {{ .app }}
        topologyKey: {{ $global.ha.topologyKey }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where pods go and which secrets pull their images. */}}
{{- define "dapr.scheduling" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- include "dapr.imagePullSecrets" . }}
{{- end }}
{{- with .Values.global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with .Values.global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A string, a list of strings or a list of maps with `name`. */}}
{{- define "dapr.imagePullSecrets" -}}
{{- if kindIs "string" . }}
- name: {{ . }}
{{- else }}
{{- range . }}
{{- if kindIs "map" . }}
- name: {{ .name }}
{{- else }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* dict "scope" . "app" name "name" object: a PodDisruptionBudget. */}}
{{- define "dapr.podDisruptionBudget" -}}
{{- $disruption := .scope.Values.global.ha.disruption -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .scope.Release.Namespace }}
  labels:
    app: {{ .app }}
    {{- include "dapr.labels" .scope | nindent 4 }}
spec:
  {{- if $disruption.minimumAvailable }}
  minAvailable: {{ $disruption.minimumAvailable }}
  {{- else if $disruption.maximumUnavailable }}
  maxUnavailable: {{ $disruption.maximumUnavailable }}
  {{- end }}
  # Without the version label, so that pods of both versions are protected
  # while an upgrade is under way.
  selector:
    matchLabels:
      app: {{ .app }}
{{- end -}}

{{/* dict "scope" (rbac scope) "name" "operator": a ServiceAccount. */}}
{{- define "dapr.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: dapr-{{ .name }}
  namespace: {{ .scope.Release.Namespace }}
  {{- with (index .scope.Values.serviceAccount .name).annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  labels:
    {{- include "dapr.labels" .scope | nindent 4 }}
{{- end -}}

{{/*
dict "scope" (rbac scope) "kind" "ClusterRole"|"Role" "name" "account": the
binding of the role of that kind and name to a control-plane ServiceAccount.
"namespace" overrides the release namespace of a RoleBinding; false leaves it out.
*/}}
{{- define "dapr.binding" -}}
{{- $own := .scope.Release.Namespace -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- if eq .kind "Role" }}
  namespace: {{ default $own .namespace }}
  {{- end }}
  labels:
    {{- include "dapr.labels" .scope | nindent 4 }}
subjects:
- kind: ServiceAccount
  name: {{ .account }}
  namespace: {{ $own }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
{{- end -}}

{{/* dict like dapr.binding: apiVersion to metadata of a role; rules follow. */}}
{{- define "dapr.roleHead" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- if eq .kind "Role" }}
  namespace: {{ default .scope.Release.Namespace .namespace }}
  {{- end }}
  labels:
    {{- include "dapr.labels" .scope | nindent 4 }}
{{- end -}}

{{/* Whether placement is rendered: "true" or nothing. Takes global. */}}
{{- define "dapr.placementEnabled" -}}
{{- if and .actors.enabled (eq .actors.serviceName "placement") }}true{{ end -}}
{{- end -}}

{{/* A service name of global.actors or global.reminders: its address. */}}
{{- define "dapr.serviceAddress" -}}
{{- $addresses := dict "placement" "dapr-placement-server:50005" "scheduler" "dapr-scheduler-server:50006" -}}
{{- if not (hasKey $addresses .name) -}}
{{- fail (printf "%s is %q; known services: placement, scheduler" .key .name) -}}
{{- end -}}
{{ index $addresses .name }}
{{- end -}}
