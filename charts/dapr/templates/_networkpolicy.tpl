{{/*
dict "root" $ "scope" component scope "app" name "ingress" list "egress" list:
one policy that allows exactly these flows, and metrics and DNS for all.
A flow is (dict "ports" (list 1 2) "peers" list); no peers means any address.
*/}}
{{- define "dapr.networkPolicy" -}}
{{- $global := .scope.Values.global -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .app }}
  namespace: {{ .scope.Release.Namespace }}
  labels:
    app: {{ .app }}
    {{- include "dapr.labels" .scope | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      app: {{ .app }}
  policyTypes: ["Ingress", "Egress"]
  ingress:
  {{- range .ingress }}
  {{- include "dapr.networkFlow" (dict "flow" . "side" "from") | nindent 2 }}
  {{- end }}
  {{- if $global.prometheus.enabled }}
  {{- $scrapers := default (list (dict "namespaceSelector" dict)) $global.networkPolicy.metricsFrom }}
  {{- include "dapr.networkFlow" (dict "flow" (dict "ports" (list $global.prometheus.port) "peers" $scrapers) "side" "from") | nindent 2 }}
  {{- end }}
  egress:
  # DNS
  - to:
    - namespaceSelector: {}
    ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
  {{- range .egress }}
  {{- include "dapr.networkFlow" (dict "flow" . "side" "to") | nindent 2 }}
  {{- end }}
  {{- with $global.networkPolicy.extraEgress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "dapr.networkFlow" -}}
- ports:
  {{- range .flow.ports }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  {{- with .flow.peers }}
  {{ $.side }}:
    {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
