{{/* What all pods of the chart have in common. */}}
{{- define "outrider.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A container without name and probes. Takes a list: the root context, `relay` or `owner`, resources, the arguments. */}}
{{- define "outrider.container" -}}
{{- $root := index . 0 }}
{{- $kind := list $root (index . 1) -}}
image: {{ include "outrider.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args:
  {{- toYaml (index . 3) | nindent 2 }}
env:
  {{- include "outrider.env" $kind | nindent 2 }}
{{- with $root.Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
resources:
  {{- toYaml (index . 2) | nindent 2 }}
volumeMounts:
  {{- include "outrider.volumeMounts" $kind | nindent 2 }}
{{- end }}

{{/* The data of the ConfigMap. */}}
{{- define "outrider.configuration" -}}
outrider.yaml: |
  {{- toYaml .Values.config | nindent 2 }}
{{- end }}
