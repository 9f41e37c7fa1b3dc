{{/* The injector's environment: upstream's names and order. */}}
{{- define "dapr.injectorEnv" -}}
{{- $values := .Values -}}
{{- include "dapr.validateSidecarUser" $values -}}
- name: DAPR_TRUST_ANCHORS_FILE
  value: /var/run/secrets/dapr.io/tls/ca.crt
- name: DAPR_CONTROL_PLANE_TRUST_DOMAIN
  value: {{ $values.global.mtls.controlPlaneTrustDomain | quote }}
- name: DAPR_SENTRY_ADDRESS
  value: {{ include "dapr.sentryAddress" . | quote }}
{{- include "dapr.extraEnv" . }}
{{- with $values.kubeClusterDomain }}
- name: KUBE_CLUSTER_DOMAIN
  value: {{ . | quote }}
{{- end }}
- name: SIDECAR_IMAGE
  value: {{ include "dapr.runtimeImage" (dict "scope" . "name" $values.image.name) | quote }}
- name: SIDECAR_IMAGE_PULL_POLICY
  value: {{ $values.sidecarImagePullPolicy | quote }}
- name: SIDECAR_RUN_AS_NON_ROOT
  value: {{ $values.sidecarRunAsNonRoot | quote }}
{{- if gt (int $values.sidecarRunAsUser) 0 }}
- name: SIDECAR_RUN_AS_USER
  value: {{ include "dapr.text" $values.sidecarRunAsUser | quote }}
{{- end }}
{{- if gt (int $values.sidecarRunAsGroup) 0 }}
- name: SIDECAR_RUN_AS_GROUP
  value: {{ include "dapr.text" $values.sidecarRunAsGroup | quote }}
{{- end }}
- name: ENABLE_K8S_DOWNWARD_APIS
  value: {{ $values.enableK8sDownwardAPIs | quote }}
- name: SIDECAR_DROP_ALL_CAPABILITIES
  value: {{ $values.sidecarDropALLCapabilities | quote }}
- name: SIDECAR_READ_ONLY_ROOT_FILESYSTEM
  value: {{ $values.sidecarReadOnlyRootFilesystem | quote }}
- name: NATIVE_SIDECAR_ENABLED
  value: {{ $values.nativeSidecar | quote }}
{{- with $values.resources.sidecarContainer }}
- name: DAPRCP_INJECTOR_SIDECAR_RESOURCES
  value: {{ toJson . | quote }}
{{- end }}
{{ include "dapr.namespaceEnv" . }}
{{- with $values.ignoreEntrypointTolerations }}
- name: IGNORE_ENTRYPOINT_TOLERATIONS
  value: {{ . | quote }}
{{- end }}
{{- include "dapr.injectorServiceEnv" $values }}
{{- with $values.allowedServiceAccounts }}
- name: ALLOWED_SERVICE_ACCOUNTS
  value: {{ . | quote }}
{{- end }}
{{- with $values.allowedServiceAccountsPrefixNames }}
- name: ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "dapr.injectorServiceEnv" }}
- name: ACTORS_ENABLED
  value: {{ .global.actors.enabled | quote }}
- name: ACTORS_SERVICE_NAME
  value: {{ .global.actors.serviceName | quote }}
- name: ACTORS_SERVICE_ADDRESS
  value: {{ include "dapr.serviceAddress" (dict "key" "global.actors.serviceName" "name" .global.actors.serviceName) | quote }}
{{- with .global.reminders.serviceName }}
- name: REMINDERS_SERVICE_NAME
  value: {{ . | quote }}
- name: REMINDERS_SERVICE_ADDRESS
  value: {{ include "dapr.serviceAddress" (dict "key" "global.reminders.serviceName" "name" .) | quote }}
{{- end }}
{{- end -}}

{{/* Upstream's two checks, with its texts. */}}
{{- define "dapr.validateSidecarUser" -}}
{{- $user := int .sidecarRunAsUser -}}
{{- if and (eq .sidecarRunAsNonRoot false) (ne $user 0) -}}
{{- fail "sidecarRunAsUser must be 0 or value ommited when sidecarRunAsNonRoot is false" -}}
{{- end -}}
{{- if and (eq .sidecarRunAsNonRoot true) (hasKey . "sidecarRunAsUser") (le $user 0) -}}
{{- fail "sidecarRunAsUser must positive when sidecarRunAsNonRoot is true (or default)" -}}
{{- end -}}
{{- end -}}
