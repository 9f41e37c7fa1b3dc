{{/* What is printed after an install: a template, so that a test can render it. */}}
{{- define "dapr.notes" -}}
{{- $index := .Files.Get "files/values-index.json" | fromJson }}
{{- $unknown := include "dapr.unknownKeys" (dict "values" (omit .Values "dapr") "known" $index.known "path" "") }}
{{- with .Values.dapr }}
{{- $unknown = print $unknown (include "dapr.unknownKeys" (dict "values" . "known" $index.known "path" "dapr.")) }}
{{- end }}
Dapr {{ .Chart.AppVersion }} is installed as release {{ .Release.Name }} in namespace {{ .Release.Namespace }}.

To see its state:
  kubectl get pods --namespace {{ .Release.Namespace }}
  dapr status -k

Documentation: https://docs.dapr.io
{{- if $unknown }}

> Warning: these values are not known to this chart and have no effect:
{{ trim $unknown | indent 4 }}
{{- end }}
{{- if eq (toString .V.dapr_scheduler.cluster.storageSize) "1Gi" }}

> Warning: 1Gi of storage for the scheduler may not be enough for production.
> Consider at least 16Gi:
>   --set dapr_scheduler.cluster.storageSize=16Gi
> https://docs.dapr.io/operations/hosting/kubernetes/kubernetes-persisting-scheduler
{{- end }}
{{- if and .V.dapr_placement.ha (eq (mod (int .V.dapr_placement.peers) 2) 0) }}

> Warning: dapr_placement.replicas is {{ .V.dapr_placement.peers }}. An even number tolerates
> no more failures than the odd number below it.
{{- end }}
{{- range $name := list "dapr_operator" "dapr_sentry" "dapr_sidecar_injector" "dapr_placement" }}
{{- if (index $.V $name).debug.enabled }}

> Warning: {{ $name }}.debug.enabled runs /dlv, which this chart's images do not
> contain; give an image that has it.
{{- end }}
{{- end }}
{{- end -}}
