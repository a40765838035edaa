{{/*
The defaults of values.yaml for values that are null or empty: they are not set. In profiles and operator.resources, null
removes a single entry, and in a podTemplate the operator takes null for a field that is to be removed.
*/}}
{{- define "persona-pruner.defaults" -}}
store: {caConfigMap: {key: ca.crt}, volume: {}}
namespaces: []
profiles:
  default: {cpu: "1", memory: 4Gi, scratch: 20Gi}
  serving: {cpu: "1", memory: 4Gi, scratch: 20Gi}
env: {}
image: {pullPolicy: IfNotPresent, pullSecrets: []}
operator:
  replicas: 1
  image: {repository: persona-pruner/operator}
  resources:
    requests: {cpu: 100m, memory: 256Mi, ephemeral-storage: 64Mi}
    limits: {memory: 512Mi, ephemeral-storage: 256Mi}
  logLevel: INFO
  retry: {}
  tuning: {}
jobs: {image: {repository: persona-pruner/jobs}}
vllm: {image: {repository: vllm/vllm-openai, tag: v0.11.0}}
securityContext: Restricted
crds: {install: true}
serviceAccount: {create: true}
rbac: {create: true, aggregate: true}
metrics:
  enabled: true
  port: 9090
  service: {}
  serviceMonitor: {enabled: false, interval: 30s}
  prometheusRule: {enabled: false}
  dashboards: {enabled: false}
networkPolicy: {enabled: false}
{{- end -}}

{{/* Removes values that are null and fills those that are not set, in place. Every template starts with it. */}}
{{- define "persona-pruner.values" -}}
{{- include "persona-pruner.withoutNulls" .Values -}}
{{- include "persona-pruner.fill" (list .Values (include "persona-pruner.defaults" . | fromYaml)) -}}
{{- end -}}

{{- define "persona-pruner.withoutNulls" -}}
{{- $values := . -}}
{{- range $name, $value := $values -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $values $name -}}
{{- else if and (kindIs "map" $value) (ne $name "podTemplate") -}}
{{- include "persona-pruner.withoutNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes a list of values and their defaults. */}}
{{- define "persona-pruner.fill" -}}
{{- $values := index . 0 -}}
{{- range $name, $default := index . 1 -}}
{{- $value := get $values $name -}}
{{- if and (kindIs "map" $default) (not (has $name (list "profiles" "resources"))) -}}
{{- if not $value -}}{{- $_ := set $values $name dict -}}{{- end -}}
{{- include "persona-pruner.fill" (list (index $values $name) $default) -}}
{{- else if eq (toString $value) "" -}}
{{- $_ := set $values $name $default -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "persona-pruner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "persona-pruner.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "persona-pruner.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "persona-pruner.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-wide objects: releases in two namespaces may have the same name. */}}
{{- define "persona-pruner.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "persona-pruner.fullname" .) -}}
{{- end -}}

{{- define "persona-pruner.selectorLabels" -}}
app.kubernetes.io/name: {{ include "persona-pruner.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "persona-pruner.labels" -}}
{{ include "persona-pruner.selectorLabels" . }}
app.kubernetes.io/part-of: persona-pruner
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- range $name, $value := .Values.commonLabels }}
{{- if not (or (hasPrefix "app.kubernetes.io/" $name) (hasPrefix "helm.sh/" $name)) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "persona-pruner.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "persona-pruner.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Reference of an image; takes a list of the root context and the image's values. */}}
{{- define "persona-pruner.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with default $root.Values.image.registry ($root.Values.global).imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $image.repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Names of the pull Secrets, as a JSON list. In an umbrella chart's values they are often {name: …}. */}}
{{- define "persona-pruner.pullSecrets" -}}
{{- $names := list -}}
{{- range concat (default list .Values.image.pullSecrets) (default list (.Values.global).imagePullSecrets) -}}
{{- $names = append $names (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) -}}
{{- end -}}
{{- uniq $names | toJson -}}
{{- end -}}

{{/* The operator's settings file. */}}
{{- define "persona-pruner.settings" -}}
{{- $env := dict -}}
{{- range $name, $value := .Values.env -}}
{{- $_ := set $env $name (kindIs "float64" $value | ternary (toJson $value) (toString $value)) -}}
{{- end -}}
{{- $settings := dict
  "jobsImage" (include "persona-pruner.image" (list . .Values.jobs.image))
  "vllmImage" (include "persona-pruner.image" (list . .Values.vllm.image))
  "imagePullPolicy" .Values.image.pullPolicy
  "imagePullSecrets" (include "persona-pruner.pullSecrets" . | fromJsonArray)
  "securityContext" .Values.securityContext
  "profilesFile" "/etc/persona-operator-profiles/profiles.yaml"
  "env" $env
  "retry" .Values.operator.retry
  "namespaces" .Values.namespaces
  "healthPort" 8080
  "metricsPort" (ternary .Values.metrics.port 0 .Values.metrics.enabled)
  "logLevel" .Values.operator.logLevel
-}}
{{- $store := dict -}}
{{- range $name, $value := omit .Values.store "caConfigMap" -}}
{{- if $value -}}{{- $_ := set $store $name $value -}}{{- end -}}
{{- end -}}
{{- if .Values.store.caConfigMap.name -}}
{{- $_ := set $store "caConfigMap" .Values.store.caConfigMap -}}
{{- end -}}
{{- $_ := set $settings "store" $store -}}
{{- with .Values.cache -}}{{- $_ := set $settings "cache" . -}}{{- end -}}
{{- with .Values.operator.maxParallelStages -}}{{- $_ := set $settings "maxParallelStages" . -}}{{- end -}}
{{- with .Values.operator.maxParallelRollouts -}}{{- $_ := set $settings "maxParallelRollouts" . -}}{{- end -}}
{{- toYaml (merge $settings .Values.operator.tuning) -}}
{{- end -}}
