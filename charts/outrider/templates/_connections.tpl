{{/*
How to reach Postgres: url, secret, passwordKey, urlKey, and the client certificate (certSecret, certKey, keyKey). Takes a list:
the root context, then `relay`, `owner` (setup and teardown; where nothing is said, as CloudNativePG's owner, else as the
relay) or `test` (where nothing is said, as the owner). Returns JSON.
*/}}
{{- define "outrider.postgres" -}}
{{- $root := index . 0 }}
{{- $kind := index . 1 }}
{{- $sections := dict "relay" $root.Values.postgres "owner" $root.Values.setup.postgres "test" $root.Values.test.postgres }}
{{- $given := get $sections $kind }}
{{- $cluster := $root.Values.postgres.cloudNativePG.cluster }}
{{- if or $given.url $given.existingSecret }}
{{- $tls := default dict $given.tls }}
{{- toJson (dict "url" $given.url "secret" $given.existingSecret "passwordKey" $given.secretKeys.password "urlKey" $given.secretKeys.url "certSecret" (default "" $tls.certSecret) "certKey" $tls.certKey "keyKey" $tls.keyKey) }}
{{- else if eq $kind "test" }}
{{- include "outrider.postgres" (list $root "owner") }}
{{- else if $cluster }}
{{- toJson (dict "url" "" "secret" (printf "%s-app" $cluster) "passwordKey" "password" "urlKey" "uri" "certSecret" "") }}
{{- else if eq $kind "owner" }}
{{- include "outrider.postgres" (list $root "relay") }}
{{- else }}
{{- fail "postgres: expected postgres.url (without a password), postgres.existingSecret with a whole URL, or postgres.cloudNativePG.cluster, found none of them." }}
{{- end }}
{{- end }}

{{- define "outrider.postgresCa" -}}
{{- with .Values.postgres }}
{{- if .tls.caSecret }}{{ .tls.caSecret }}{{ else if .cloudNativePG.cluster }}{{ .cloudNativePG.cluster }}-ca{{ end }}
{{- end }}
{{- end }}

{{/* Takes a list: the path of a value, a URL. A password there would be in the release, and in every `helm get values`. */}}
{{- define "outrider.withoutPassword" -}}
{{- if or (regexMatch "^[^/]*//[^/?#@:]*:[^@]*@" (index . 1)) (regexMatch "(?i)[?&][^=&]*pass[^=&]*=" (index . 1)) }}
{{- fail (printf "%s: expected a URL without a password, found one with it. Put the password, or the whole URL, into a Secret and name that in existingSecret." (index . 0)) }}
{{- end }}
{{- end }}

{{/* Takes a list: the path of ports, the path of a URL, the URL, the ports. A port that is closed shows as a time-out alone. */}}
{{- define "outrider.portOpen" -}}
{{- $open := list }}
{{- range index . 3 }}
{{- $open = append $open (toString .) }}
{{- end }}
{{- range regexFindAll ":[0-9]+([/?&,]|$)" (index . 2) -1 }}
{{- $port := regexFind "[0-9]+" . }}
{{- if not (has $port $open) }}
{{- fail (printf "%s: expected %s, as %s has it, found %s." (index $ 0) $port (index $ 1) (join ", " $open)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of a duration as the relay reads it; a bare number is milliseconds. */}}
{{- define "outrider.seconds" -}}
{{- $text := toString . }}
{{- $units := dict "" 0.001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 }}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[a-z]*$" $text) | default 0.0) }}
{{- end }}

{{/* What only several values together, or a part of one, can tell. */}}
{{- define "outrider.checkValues" -}}
{{- range $labels := list "commonLabels" "podLabels" }}
{{- range $name, $_ := get $.Values $labels }}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|version|part-of|managed-by)|helm\\.sh/chart)$" $name }}
{{- fail (printf "%s: expected labels of your own, found %s, which the chart sets, and selects by." $labels $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- include "outrider.withoutPassword" (list "postgres.url" .Values.postgres.url) }}
{{- include "outrider.withoutPassword" (list "setup.postgres.url" .Values.setup.postgres.url) }}
{{- include "outrider.withoutPassword" (list "test.postgres.url" .Values.test.postgres.url) }}
{{- include "outrider.withoutPassword" (list "redis.url" .Values.redis.url) }}
{{- if .Values.networkPolicy.enabled }}
{{- include "outrider.portOpen" (list "networkPolicy.postgres.port" "postgres.url" .Values.postgres.url (list .Values.networkPolicy.postgres.port)) }}
{{- include "outrider.portOpen" (list "networkPolicy.postgres.port" "setup.postgres.url" .Values.setup.postgres.url (list .Values.networkPolicy.postgres.port)) }}
{{- include "outrider.portOpen" (list "networkPolicy.redis.ports" "redis.url" .Values.redis.url .Values.networkPolicy.redis.ports) }}
{{- end }}
{{- $drain := include "outrider.seconds" (dig "drainTimeout" "20s" .Values.config) | float64 }}
{{- if gt $drain (float64 .Values.terminationGracePeriodSeconds) }}
{{- fail (printf "terminationGracePeriodSeconds: expected more than config.drainTimeout (%g s), found %v. The relay would be killed while it drains." $drain .Values.terminationGracePeriodSeconds) }}
{{- end }}
{{- if not (or .Values.redis.url .Values.redis.existingSecret) }}
{{- fail "redis: expected redis.url (without a password) or redis.existingSecret with a whole URL, found neither." }}
{{- end }}
{{- if and .Values.redis.sentinel.passwordKey (not .Values.redis.existingSecret) }}
{{- fail "redis.sentinel.passwordKey: expected redis.existingSecret to name the Secret with that key, found nothing." }}
{{- end }}
{{- end }}

{{/* The environment of a container. Takes a list: the root context, `relay` or `owner`. */}}
{{- define "outrider.env" -}}
{{- $root := index . 0 }}
{{- $postgres := fromJson (include "outrider.postgres" .) }}
{{- $redis := $root.Values.redis -}}
- name: OUTRIDER_CONFIG
  value: /etc/outrider/config/outrider.yaml
{{- if $postgres.url }}
- name: OUTRIDER_POSTGRES_URL
  value: {{ $postgres.url | quote }}
{{- if $postgres.secret }}
- name: OUTRIDER_POSTGRES_PASSWORD_FILE
  value: /etc/outrider/postgres/password
{{- end }}
{{- else }}
- name: OUTRIDER_POSTGRES_URL_FILE
  value: /etc/outrider/postgres/url
{{- end }}
{{- if include "outrider.postgresCa" $root }}
- name: OUTRIDER_POSTGRES_TLS_CA
  value: /etc/outrider/postgres-ca/ca.crt
{{- end }}
{{- if $postgres.certSecret }}
- name: OUTRIDER_POSTGRES_TLS_CERT
  value: /etc/outrider/postgres-cert/tls.crt
- name: OUTRIDER_POSTGRES_TLS_KEY
  value: /etc/outrider/postgres-cert/tls.key
{{- end }}
{{- with $root.Values.postgres.tls.serverName }}
- name: OUTRIDER_POSTGRES_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if $redis.url }}
- name: OUTRIDER_REDIS_URL
  value: {{ $redis.url | quote }}
{{- if $redis.existingSecret }}
- name: OUTRIDER_REDIS_PASSWORD_FILE
  value: /etc/outrider/redis/password
{{- end }}
{{- else }}
- name: OUTRIDER_REDIS_URL_FILE
  value: /etc/outrider/redis/url
{{- end }}
{{- with $redis.username }}
- name: OUTRIDER_REDIS_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- with $redis.sentinel.username }}
- name: OUTRIDER_REDIS_SENTINEL_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- if $redis.sentinel.passwordKey }}
- name: OUTRIDER_REDIS_SENTINEL_PASSWORD_FILE
  value: /etc/outrider/redis/sentinel-password
{{- end }}
{{- if $redis.tls.caSecret }}
- name: OUTRIDER_REDIS_TLS_CA
  value: /etc/outrider/redis-ca/ca.crt
{{- end }}
{{- if $redis.tls.certSecret }}
- name: OUTRIDER_REDIS_TLS_CERT
  value: /etc/outrider/redis-cert/tls.crt
- name: OUTRIDER_REDIS_TLS_KEY
  value: /etc/outrider/redis-cert/tls.key
{{- end }}
{{- with $redis.tls.serverName }}
- name: OUTRIDER_REDIS_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- range $root.Values.extraEnv }}
{{- if regexMatch "^(OUTRIDER_.*|DATABASE_URL|REDIS_URL)$" .name }}
{{- fail (printf "extraEnv: expected no %s, which would win over what postgres, redis and config say. Say it there; secrets belong into a Secret that existingSecret names." .name) }}
{{- end }}
{{- end }}
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The Secrets of a container, each mounted as a folder, so that a rotated one is followed. Takes a list: the root context,
`relay` or `owner`. Returns JSON: a list of volume, path, secret and keys (by the name of the file).
*/}}
{{- define "outrider.secrets" -}}
{{- $root := index . 0 }}
{{- $kind := index . 1 }}
{{- $postgres := fromJson (include "outrider.postgres" .) }}
{{- $redis := $root.Values.redis }}
{{- $secrets := list }}
{{- if $postgres.secret }}
{{- $keys := ternary (dict "password" $postgres.passwordKey) (dict "url" $postgres.urlKey) (ne $postgres.url "") }}
{{- $volume := ternary "outrider-postgres" "outrider-owner" (eq $kind "relay") }}
{{- $secrets = append $secrets (dict "volume" $volume "path" "postgres" "secret" $postgres.secret "keys" $keys) }}
{{- end }}
{{- with include "outrider.postgresCa" $root }}
{{- $secrets = append $secrets (dict "volume" "outrider-postgres-ca" "path" "postgres-ca" "secret" . "keys" (dict "ca.crt" $root.Values.postgres.tls.caKey)) }}
{{- end }}
{{- with $postgres.certSecret }}
{{- $volume := ternary "outrider-postgres-cert" "outrider-owner-cert" (eq $kind "relay") }}
{{- $secrets = append $secrets (dict "volume" $volume "path" "postgres-cert" "secret" . "keys" (dict "tls.crt" $postgres.certKey "tls.key" $postgres.keyKey)) }}
{{- end }}
{{- with $redis.existingSecret }}
{{- $keys := ternary (dict "password" $redis.secretKeys.password) (dict "url" $redis.secretKeys.url) (ne $redis.url "") }}
{{- with $redis.sentinel.passwordKey }}
{{- $_ := set $keys "sentinel-password" . }}
{{- end }}
{{- $secrets = append $secrets (dict "volume" "outrider-redis" "path" "redis" "secret" . "keys" $keys) }}
{{- end }}
{{- with $redis.tls.caSecret }}
{{- $secrets = append $secrets (dict "volume" "outrider-redis-ca" "path" "redis-ca" "secret" . "keys" (dict "ca.crt" $redis.tls.caKey)) }}
{{- end }}
{{- with $redis.tls.certSecret }}
{{- $secrets = append $secrets (dict "volume" "outrider-redis-cert" "path" "redis-cert" "secret" . "keys" (dict "tls.crt" $redis.tls.certKey "tls.key" $redis.tls.keyKey)) }}
{{- end }}
{{- toJson $secrets }}
{{- end }}

{{- define "outrider.volumeMounts" -}}
{{- $root := index . 0 -}}
- name: outrider-config
  mountPath: /etc/outrider/config
  readOnly: true
{{- range fromJsonArray (include "outrider.secrets" .) }}
- name: {{ .volume }}
  mountPath: /etc/outrider/{{ .path }}
  readOnly: true
{{- end }}
{{- with $root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Takes a list: the root context, the name of the ConfigMap, the mode of the files, then `relay`, `owner` or both. */}}
{{- define "outrider.volumes" -}}
{{- $root := index . 0 }}
{{- $mode := index . 2 -}}
- name: outrider-config
  configMap:
    name: {{ index . 1 }}
    defaultMode: 0444
{{- $known := dict }}
{{- range $kind := slice . 3 }}
{{- range fromJsonArray (include "outrider.secrets" (list $root $kind)) }}
{{- if not (hasKey $known .volume) }}
{{- $_ := set $known .volume true }}
- name: {{ .volume }}
  secret:
    secretName: {{ .secret }}
    defaultMode: {{ $mode }}
    items:
{{- range $file, $key := .keys }}
      - key: {{ $key }}
        path: {{ $file }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
