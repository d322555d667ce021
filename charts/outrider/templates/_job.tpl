{{/*
The parts of a hook that runs before the release, or after it: a ConfigMap of its own and, where set, a NetworkPolicy.
Takes a list: the root context, the component, the hooks.
*/}}
{{- define "outrider.hookObjects" -}}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
{{- $name := printf "%s-%s" (include "outrider.fullname" $root) $component -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outrider.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
  annotations:
    {{- include "outrider.hook" (list (index . 2) "-10") | nindent 4 }}
data:
  {{- include "outrider.configuration" $root | nindent 2 }}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outrider.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
  annotations:
    {{- include "outrider.hook" (list (index . 2) "-10") | nindent 4 }}
spec:
  {{- include "outrider.networkPolicySpec" (list $root $component) | nindent 2 }}
{{- end }}
{{- end }}

{{/* A failed Job stays, with its pods and their logs, until the next try. Takes a list: the hooks, the weight. */}}
{{- define "outrider.hook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* The pod of a Job, up to its containers. Takes a list: the root context, the component. */}}
{{- define "outrider.jobTemplate" -}}
{{- $root := index . 0 -}}
metadata:
  labels:
    {{- include "outrider.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ $root.Values.setup.serviceAccountName }}
  {{- include "outrider.pod" $root | nindent 2 }}
{{- end }}

{{- define "outrider.setupArguments" -}}
{{- $setup := .Values.setup }}
{{- $arguments := list "setup" "--lock-timeout" $setup.lockTimeout }}
{{- if $setup.acceptFindings }}
{{- $arguments = append $arguments "--accept-findings" }}
{{- end }}
{{- range $role, $names := $setup.grants }}
{{- with $names }}
{{- $arguments = concat $arguments (list (printf "--grant-%s" $role) (join "," .)) }}
{{- end }}
{{- end }}
{{- toJson $arguments }}
{{- end }}

{{/*
Whether a look at the servers comes first: before the first start, and before that on other servers or another slot; not at every
upgrade, which may be the fix for a server that is away. The ConfigMap of the release comes after a hook has passed, and says on
what. A plain Job runs again only where something changed.
*/}}
{{- define "outrider.checksFirst" -}}
{{- if .Values.setup.check.enabled }}
{{- $passed := lookup "v1" "ConfigMap" .Release.Namespace (include "outrider.fullname" .) | dig "metadata" "annotations" "checksum/servers" "" }}
{{- if or (not .Values.setup.hook) (ne $passed (include "outrider.servers" .)) }}true{{ end }}
{{- end }}
{{- end }}

{{/* Which servers, and which slot. */}}
{{- define "outrider.servers" -}}
{{- with .Values }}
{{- list .postgres.url .postgres.existingSecret .postgres.cloudNativePG.cluster .redis.url .redis.existingSecret (dig "slot" "" .config) | toJson | sha256sum }}
{{- end }}
{{- end }}

{{- define "outrider.setupJobSpec" -}}
{{- $setup := .Values.setup }}
{{- $checksFirst := eq (include "outrider.checksFirst" .) "true" -}}
backoffLimit: {{ $setup.backoffLimit }}
activeDeadlineSeconds: {{ $setup.activeDeadlineSeconds }}
# An error that another try cannot fix ends it at once: a wrong configuration (2), a blocker (4).
podFailurePolicy:
  rules:
    {{- if $checksFirst }}
    - action: FailJob
      onExitCodes:
        containerName: check
        operator: In
        values: [2, 4]
    {{- end }}
    - action: FailJob
      onExitCodes:
        containerName: setup
        operator: In
        values: [2]
{{- if not $setup.hook }}
ttlSecondsAfterFinished: {{ $setup.ttlSecondsAfterFinished }}
{{- end }}
template:
  {{- include "outrider.jobTemplate" (list . "setup") | nindent 2 }}
    {{- if $checksFirst }}
    initContainers:
      - name: check
        {{- $arguments := list "check" "--before-setup" }}
        {{- if $setup.check.allowUnboundedWal }}
        {{- $arguments = append $arguments "--allow-unbounded-wal" }}
        {{- end }}
        {{- include "outrider.container" (list . "relay" $setup.resources $arguments) | nindent 8 }}
    {{- end }}
    containers:
      - name: setup
        {{- include "outrider.container" (list . "owner" $setup.resources (fromJsonArray (include "outrider.setupArguments" .))) | nindent 8 }}
    volumes:
      {{- $kinds := ternary (list "relay" "owner") (list "owner") $checksFirst }}
      {{- $name := include "outrider.fullname" . }}
      {{- include "outrider.volumes" (concat (list . (ternary (printf "%s-setup" $name) $name $setup.hook) "0440") $kinds) | nindent 6 }}
{{- end }}
