{{/*
The relay as a native sidecar: an entry of `initContainers`, in the pod of a service. In a chart that depends on this one:

    metadata:
      annotations:
        {{- include "outrider.sidecar.annotations" .Subcharts.outrider | nindent 8 }}
    spec:
      initContainers:
        {{- include "outrider.sidecar" .Subcharts.outrider | nindent 8 }}
      volumes:
        {{- include "outrider.sidecar.volumes" .Subcharts.outrider | nindent 8 }}

It has no readiness of its own: a Redis that is down must not take the pods of the application out of their Service.
*/}}
{{- define "outrider.sidecar" -}}
- name: outrider
  restartPolicy: Always
  {{- include "outrider.container" (list . "relay" .Values.resources (list "relay")) | nindent 2 }}
  ports:
    - name: outrider
      containerPort: {{ include "outrider.port" . }}
      protocol: TCP
  {{- range $probe := list "startupProbe" "livenessProbe" }}
  {{- with get $.Values $probe }}
  {{ $probe }}:
    {{- toYaml . | replace "port: http" "port: outrider" | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}

{{/* So that another configuration makes new pods. */}}
{{- define "outrider.sidecar.annotations" -}}
checksum/outrider: {{ include "outrider.configuration" . | sha256sum }}
{{- end }}

{{/* Readable for whatever user and group the pod has; mounted into the sidecar alone. */}}
{{- define "outrider.sidecar.volumes" -}}
{{- include "outrider.volumes" (list . (include "outrider.fullname" .) "0444" "relay") }}
{{- end }}
