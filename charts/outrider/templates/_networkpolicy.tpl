{{/* What pods of the chart may reach, and who may reach them. Takes a list: the root context, the component. */}}
{{- define "outrider.networkPolicySpec" -}}
{{- $root := index . 0 }}
{{- $policy := $root.Values.networkPolicy -}}
podSelector:
  matchLabels:
    {{- include "outrider.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 }}
policyTypes:
  - Ingress
  - Egress
{{- if eq (index . 1) "relay" }}
ingress:
  - ports:
      - port: {{ include "outrider.port" $root }}
        protocol: TCP
    {{- with $policy.metricsFrom }}
    from:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- with $policy.extraIngress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
egress:
  - ports:
      - port: 53
        protocol: UDP
      - port: 53
        protocol: TCP
  - ports:
      - port: {{ $policy.postgres.port }}
        protocol: TCP
    {{- with $policy.postgres.to }}
    to:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  - ports:
      {{- range $policy.redis.ports }}
      - port: {{ . }}
        protocol: TCP
      {{- end }}
    {{- with $policy.redis.to }}
    to:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- with $policy.extraEgress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
