{{- define "jobs.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The longest stop_timeout of all pools, in seconds. */}}
{{- define "jobs.longestStop" -}}
{{- $longest := 0 }}
{{- range .Values.pools }}{{ $longest = max $longest (int .stop_timeout) }}{{ end }}
{{- $longest }}
{{- end }}

{{/* Variables that override the pools of jobs.toml; tables inside them become more names: WORKERS__MIN. */}}
{{- define "jobs.variables" -}}
{{- $prefix := .prefix }}
{{- range $key, $value := .table }}
{{- $name := printf "%s__%s" $prefix (upper $key) }}
{{- if kindIs "map" $value }}
{{- include "jobs.variables" (dict "prefix" $name "table" $value) }}
{{- else }}
- name: {{ $name }}
  value: {{ if kindIs "slice" $value }}{{ toJson $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
