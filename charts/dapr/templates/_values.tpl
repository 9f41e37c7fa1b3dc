{{/*
How the values become what the templates read. Every template starts with
`include "dapr.prepare" .`; the first call puts on the root context:

  .V       the values after defaults, the top-level `dapr:` key and second
           spellings are applied
  .Scope   per component: Values (its own plus global), Release, Chart,
           Capabilities, Template; what a subchart's templates would see

Neither .Values nor a parent chart's values are changed.
*/}}

{{- define "dapr.prepare" -}}
{{- if not (hasKey . "V") -}}
{{- $index := .Files.Get "files/values-index.json" | fromJson -}}
{{- $v := deepCopy (omit .Values "dapr") -}}
{{- include "dapr.fill" (dict "into" $v "defaults" $index.defaults "known" $index.known) -}}
{{- with .Values.dapr -}}
{{- include "dapr.refuseConflict" (dict "nested" . "top" $v "defaults" $index.defaults "path" "") -}}
{{- include "dapr.overlay" (dict "into" $v "from" .) -}}
{{- include "dapr.fill" (dict "into" $v "defaults" $index.defaults "known" $index.known) -}}
{{- end -}}
{{- include "dapr.resolveTrustDomain" $v -}}
{{- include "dapr.resolveReplicas" $v -}}
{{- include "dapr.resolvePlacement" $v -}}
{{- $scopes := dict -}}
{{- range $name := list "dapr_rbac" "dapr_operator" "dapr_sentry" "dapr_sidecar_injector" "dapr_placement" "dapr_scheduler" "dapr_config" -}}
{{- $values := set (deepCopy (index $v $name)) "global" $v.global -}}
{{- $_ := set $scopes $name (dict "Values" $values "Release" $.Release "Chart" $.Chart "Capabilities" $.Capabilities "Template" $.Template) -}}
{{- end -}}
{{- $_ := set . "V" $v -}}
{{- $_ := set . "Scope" $scopes -}}
{{- end -}}
{{- end -}}

{{/*
Adds defaults that are missing: after `--reuse-values` from an older chart,
keys that are new here do not exist. Maps with free keys (labels, selectors)
are filled as a whole only, so that a key removed from them stays removed.
*/}}
{{- define "dapr.fill" -}}
{{- $into := .into -}}
{{- $known := .known -}}
{{- range $key, $default := .defaults -}}
{{- $below := index $known $key -}}
{{- if not (hasKey $into $key) -}}
{{- $_ := set $into $key (deepCopy (dict "v" $default)).v -}}
{{- else if and (kindIs "map" $default) (kindIs "map" $below) (kindIs "map" (index $into $key)) -}}
{{- include "dapr.fill" (dict "into" (index $into $key) "defaults" $default "known" $below) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Lays `from` over `into`; null removes a key, as in Helm. */}}
{{- define "dapr.overlay" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $into $key -}}
{{- else if and (kindIs "map" $value) (kindIs "map" (index $into $key)) -}}
{{- include "dapr.overlay" (dict "into" (index $into $key) "from" $value) -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses a key given both at the top level and below `dapr:` with different values. */}}
{{- define "dapr.refuseConflict" -}}
{{- $top := .top -}}
{{- $defaults := .defaults -}}
{{- $path := .path -}}
{{- range $key, $value := .nested -}}
{{- if and (hasKey $top $key) (not (kindIs "invalid" $value)) -}}
{{- $other := index $top $key -}}
{{- $default := index $defaults $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $other) -}}
{{- include "dapr.refuseConflict" (dict "nested" $value "top" $other "defaults" (ternary $default dict (kindIs "map" $default)) "path" (print $path $key ".")) -}}
{{- else if and (ne (toJson $other) (toJson $default)) (ne (toJson $other) (toJson $value)) -}}
{{- fail (printf "dapr.%s%s is %s but %s%s is %s: they mean the same, so set one of them" $path $key (toJson $value) $path $key (toJson $other)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One of two spellings: dict "a" nameA "av" valueA "b" nameB "bv" valueB. */}}
{{- define "dapr.refuseTwoSpellings" -}}
{{- if and (not (kindIs "invalid" .av)) (not (kindIs "invalid" .bv)) (ne (toString .av) (toString .bv)) -}}
{{- fail (printf "%s is %v but %s is %v: they mean the same, so set one of them" .a .av .b .bv) -}}
{{- end -}}
{{- end -}}

{{- define "dapr.resolveTrustDomain" -}}
{{- $own := .dapr_sentry.trustDomain -}}
{{- $global := .global.mtls.controlPlaneTrustDomain -}}
{{- if not $own }}{{ $own = $global }}{{ end -}}
{{- if not $global }}{{ $global = $own }}{{ end -}}
{{- include "dapr.refuseTwoSpellings" (dict "a" "dapr_sentry.trustDomain" "av" $own "b" "global.mtls.controlPlaneTrustDomain" "bv" $global) -}}
{{- $_ := set .global.mtls "controlPlaneTrustDomain" (default "cluster.local" $own) -}}
{{- end -}}

{{/*
`replicas` counts always; `replicaCount` (upstream's) without HA only, where
upstream ignores it.
*/}}
{{- define "dapr.resolveReplicas" -}}
{{- $v := . -}}
{{- range $name := list "dapr_operator" "dapr_sentry" "dapr_sidecar_injector" -}}
{{- $values := index $v $name -}}
{{- include "dapr.refuseTwoSpellings" (dict "a" (print $name ".replicas") "av" $values.replicas "b" (print $name ".replicaCount") "bv" $values.replicaCount) -}}
{{- if kindIs "invalid" $values.replicas -}}
{{- if $v.global.ha.enabled -}}
{{- $_ := set $values "replicas" $v.global.ha.replicaCount -}}
{{- else if kindIs "invalid" $values.replicaCount -}}
{{- $_ := set $values "replicas" 1 -}}
{{- else -}}
{{- $_ := set $values "replicas" $values.replicaCount -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Afterwards `replicas` and `peers` are set, and `ha` says whether Raft runs. */}}
{{- define "dapr.resolvePlacement" -}}
{{- $values := .dapr_placement -}}
{{- $ha := or .global.ha.enabled $values.ha -}}
{{- $peers := ternary 3 1 $ha -}}
{{- if not (kindIs "invalid" $values.replicas) -}}
{{- $peers = int $values.replicas -}}
{{- if and $values.scaleZero (gt $peers 0) -}}
{{- fail (printf "dapr_placement.replicas is %d but dapr_placement.scaleZero is true: set one of them" $peers) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $values "ha" (or $ha (gt $peers 1)) -}}
{{- $_ := set $values "peers" $peers -}}
{{- $_ := set $values "replicas" (ternary 0 $peers (eq $values.scaleZero true)) -}}
{{- end -}}

{{/* Lists keys that the chart does not know, one dotted path a line. */}}
{{- define "dapr.unknownKeys" -}}
{{- $known := .known -}}
{{- $path := .path -}}
{{- range $key, $value := .values -}}
{{- if not (hasKey $known $key) }}
{{ print $path $key }}
{{- else if and (kindIs "map" $value) (kindIs "map" (index $known $key)) -}}
{{- include "dapr.unknownKeys" (dict "values" $value "known" (index $known $key) "path" (print $path $key ".")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
