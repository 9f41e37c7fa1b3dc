{{- define "dapr.schedulerEtcdArgs" -}}
{{- $peers := list -}}
{{- range $n := until 3 -}}
{{- $pod := printf "dapr-scheduler-server-%d" $n -}}
{{- $peers = append $peers (printf "%s=https://%s.dapr-scheduler-server.%s.svc%s:2380" $pod $pod $.Release.Namespace $.Values.global.dnsSuffix) -}}
{{- end -}}
- "--etcd-initial-cluster"
- {{ join "," $peers | quote }}
- "--etcd-embed={{ .Values.etcdEmbed }}"
{{- with .Values.etcdClientEndpoints }}
- "--etcd-client-endpoints"
- {{ join "," . | quote }}
{{- end }}
{{- with .Values.etcdClientUsername }}
- "--etcd-client-username"
- {{ . | quote }}
{{- end }}
{{- with .Values.etcdClientPassword }}
- "--etcd-client-password"
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "dapr.schedulerTuningArgs" -}}
{{- $values := . -}}
{{- range $flag := list
  (list "space-quota" "etcdSpaceQuota")
  (list "compaction-mode" "etcdCompactionMode")
  (list "compaction-retention" "etcdCompactionRetention")
  (list "snapshot-count" "etcdSnapshotCount")
  (list "max-snapshots" "etcdMaxSnapshots")
  (list "max-wals" "etcdMaxWals")
  (list "backend-batch-limit" "etcdBackendBatchLimit")
  (list "backend-batch-interval" "etcdBackendBatchInterval")
  (list "max-txn-ops" "etcdMaxTxnOps")
  (list "experimental-bootstrap-defrag-threshold-megabytes" "etcdDefragThresholdMB")
  (list "initial-election-tick-advance" "etcdInitialElectionTickAdvance")
  (list "metrics" "etcdMetrics") }}
- "--etcd-{{ index $flag 0 }}={{ include "dapr.text" (index $values (index $flag 1)) }}"
{{- end }}
{{- end -}}

{{/*
The size in volumeClaimTemplates is immutable: an upgrade renders the size that
the installed StatefulSet has. `helm template` sees no cluster and renders the value.
*/}}
{{- define "dapr.schedulerStorageSize" -}}
{{- $size := .Values.cluster.storageSize -}}
{{- $installed := lookup "apps/v1" "StatefulSet" .Release.Namespace "dapr-scheduler-server" -}}
{{- if $installed -}}
{{- range $installed.spec.volumeClaimTemplates -}}
{{- if eq .metadata.name "dapr-scheduler-data-dir" -}}
{{- $size = .spec.resources.requests.storage -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ $size }}
{{- end -}}
