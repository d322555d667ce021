{{/*
Whether an object of the Prometheus operator is rendered: "true" or nothing. Takes a list: the root context, its kind,
and its section of `metrics` as named in values.yaml.
*/}}
{{- define "outrider.monitoring.enabled" -}}
{{- $root := index . 0 }}
{{- $kind := index . 1 }}
{{- $name := index . 2 }}
{{- $section := index $root.Values.metrics $name }}
{{- if $section.enabled }}
{{- if eq $section.renderMode "alwaysRender" }}
{{- "true" }}
{{- else if or ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") ($root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind)) }}
{{- "true" }}
{{- else if eq $section.renderMode "failIfMissing" }}
{{- fail (printf "metrics.%s: expected a cluster that knows %s (monitoring.coreos.com/v1), found none. Install the Prometheus operator, or set metrics.%s.renderMode to skipIfMissing or alwaysRender." $name $kind $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Metadata of an object of monitoring. Takes a list: the root context, its section of the values. */}}
{{- define "outrider.monitoring.metadata" -}}
{{- $root := index . 0 }}
{{- $section := index . 1 }}
name: {{ include "outrider.fullname" $root }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- merge (dict "app.kubernetes.io/component" "relay") $section.labels (fromYaml (include "outrider.labels" $root)) | toYaml | nindent 2 }}
{{- with $section.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
How the relay is scraped. A ServiceMonitor and a PodMonitor would name the job differently, and the alerts and the
dashboard select by it: both say the same.
*/}}
{{- define "outrider.monitoring.endpoint" -}}
port: {{ default "http" .port }}
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  - targetLabel: job
    replacement: {{ .job }}
  {{- with .relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Which series are this relay's, in PromQL. */}}
{{- define "outrider.monitoring.matchers" -}}
{{- default (printf "namespace=%q,job=%q" .Release.Namespace (include "outrider.fullname" .)) .Values.metrics.prometheusRule.matchers }}
{{- end }}

{{/*
The rules of one file of alerts, as YAML. Takes a list: the root context, the file's name. The files are plain PromQL:
$name stands for a number of the alert's thresholds, $relay and $consumers for matchers. A name is replaced as a whole
word, so that one may begin with another.
*/}}
{{- define "outrider.monitoring.rules" -}}
{{- $root := index . 0 }}
{{- $rule := $root.Values.metrics.prometheusRule }}
{{- $expected := list }}
{{- range $rule.consumers.groups }}
{{- $expected = append $expected (printf " or absent(outrider_consumer_running{group=%q,%s})" . $rule.consumers.matchers) }}
{{- end }}
{{- /* How many sidecars there are is not ours to know; one, at least. */}}
{{- $replicas := ternary $root.Values.replicaCount 1 $root.Values.deployment.enabled }}
{{- $words := dict "expected" (join "" $expected) "relay" (include "outrider.monitoring.matchers" $root) "consumers" $rule.consumers.matchers "replicas" (toString $replicas) }}
{{- $rules := list }}
{{- range $alert := fromYamlArray ($root.Files.Get (printf "files/alerts/%s.yaml" (index . 1))) }}
{{- if not (has $alert.alert $rule.exclude) }}
{{- $thresholds := index $rule.thresholds $alert.alert }}
{{- $expr := $alert.expr }}
{{- $summary := $alert.summary }}
{{- range $name, $value := merge (dict) $words $thresholds }}
{{- if not (kindIs "string" $value) }}
{{- $value = ternary (printf "%d" (int64 $value)) (toString $value) (eq (float64 $value) (floor $value)) }}
{{- end }}
{{- $word := printf `\$%s\b` $name }}
{{- $expr = regexReplaceAllLiteral $word $expr $value }}
{{- $summary = regexReplaceAllLiteral $word $summary $value }}
{{- end }}
{{- $annotations := dict "summary" $summary "description" $alert.description }}
{{- with $rule.runbookUrl }}
{{- $_ := set $annotations "runbook_url" (printf "%s%s" . (lower $alert.alert)) }}
{{- end }}
{{- $labels := merge (dict "severity" $thresholds.severity) $rule.ruleLabels }}
{{- if ne (index $ 1) "consumers" }}
{{- $labels = merge $labels (dict "namespace" $root.Release.Namespace "relay" (include "outrider.fullname" $root)) }}
{{- end }}
{{- $expr = $expr | replace "{," "{" | replace ",}" "}" }}
{{- $rules = append $rules (dict "alert" $alert.alert "expr" $expr "for" $thresholds.for "labels" $labels "annotations" $annotations) }}
{{- end }}
{{- end }}
{{- with $rules }}
{{- toYaml . }}
{{- end }}
{{- end }}
