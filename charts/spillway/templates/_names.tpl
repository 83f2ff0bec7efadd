{{/* Names are fixed: the cluster-scoped parts allow one installation per cluster anyway. */}}

{{- define "spillway.labels" -}}
app.kubernetes.io/name: spillway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: spillway
{{- end }}

{{- define "spillway.selector" -}}
app.kubernetes.io/name: spillway
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* repository:tag; an empty tag is the chart's appVersion */}}
{{- define "spillway.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Repositories a sidecar image may come from: the chart's own and those the admin allows. */}}
{{- define "spillway.allowedRepositories" -}}
{{ prepend .Values.image.allowedRepositories .Values.image.sidecar.repository | uniq | toJson }}
{{- end }}

{{- define "spillway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "spillway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The settings that operator and webhook share (spillway_operator/settings.py). */}}
{{- define "spillway.environment" -}}
- name: SPILLWAY_SIDECAR_IMAGE
  value: {{ include "spillway.image" (dict "image" .Values.image.sidecar "root" .) }}
- name: SPILLWAY_SIDECAR_PULL_POLICY
  value: {{ .Values.image.sidecar.pullPolicy }}
- name: SPILLWAY_ALLOWED_REPOSITORIES
  value: {{ include "spillway.allowedRepositories" . | quote }}
- name: SPILLWAY_HOST_PATHS
  value: {{ .Values.hostPath.allowedPaths | toJson | quote }}
- name: SPILLWAY_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end }}
