{{- define "outrider.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Cut so that the longest suffix fits behind it. */}}
{{- define "outrider.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 44 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "outrider.selectorLabels" -}}
app.kubernetes.io/name: {{ include "outrider.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "outrider.labels" -}}
{{ include "outrider.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: outrider
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "outrider.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "outrider.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "outrider.image" -}}
{{- with .Values.image }}
{{- $repository := required "image.repository: expected the name under which you pushed the image, such as registry.example.com/outrider, found nothing. `npm run image` builds it." .repository }}
{{- if .digest }}
{{- printf "%s@%s" $repository .digest }}
{{- else }}
{{- $tag := default $.Chart.AppVersion .tag }}
{{- if eq $tag "latest" }}
{{- fail "image.tag: expected the tag of one version, found latest, which is another one tomorrow. Leave it empty for the chart's own version, or give image.digest." }}
{{- end }}
{{- printf "%s:%s" $repository $tag }}
{{- end }}
{{- end }}
{{- end }}

{{- define "outrider.port" -}}
{{- $port := dig "http" "port" 9474 .Values.config | int }}
{{- if eq $port 0 }}
{{- fail "config.http.port: expected a port, found 0. The probes and Prometheus ask there." }}
{{- end }}
{{- $host := dig "http" "host" "0.0.0.0" .Values.config }}
{{- if regexMatch "^(127\\.|localhost$|::1$)" $host }}
{{- fail (printf "config.http.host: expected an address of the pod, such as 0.0.0.0, found %s. The probes and Prometheus ask from outside." $host) }}
{{- end }}
{{- $port }}
{{- end }}

{{- define "outrider.ownOutbox" -}}
{{- eq (dig "outbox" "table" "outrider.outbox" .Values.config) "outrider.outbox" }}
{{- end }}
