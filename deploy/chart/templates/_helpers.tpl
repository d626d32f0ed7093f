{{/* What is named in several places. */}}

{{- define "kulprit.version" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "kulprit.labels" -}}
app.kubernetes.io/name: kulprit
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ include "kulprit.version" . | quote }}
{{- end -}}

{{/* Of the pods of a component: who calls gives a list of the component and the root. */}}
{{- define "kulprit.selector" -}}
app.kubernetes.io/name: kulprit
app.kubernetes.io/component: {{ index . 0 }}
{{- end -}}

{{- define "kulprit.image" -}}
{{- $root := index . 1 -}}
{{ $root.Values.image.registry }}/{{ index . 0 }}:{{ include "kulprit.version" $root }}
{{- end -}}

{{/* Central's name in its certificate, and where agents look for it. */}}
{{- define "kulprit.central.host" -}}
kulprit-central.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "kulprit.central.config" -}}
{{- $any := ternary "[::]" "0.0.0.0" (eq .Values.ipFamily "IPv6") -}}
{{- $config := dict
    "listen" (printf "%s:7443" $any)
    "admin_listen" (printf "%s:7444" $any)
    "data_dir" "/var/lib/kulprit-central"
    "log_format" .Values.log.format
    "log" .Values.log.filter
-}}
{{- with .Values.cluster }}{{ $_ := set $config "cluster" . }}{{ end -}}
{{- if eq .Values.ipFamily "IPv6" }}{{ $_ := set $config "limits" (dict "connections_per_address" 4096) }}{{ end -}}
{{- $tls := dict -}}
{{- if eq .Values.tls.mode "made" -}}
  {{- $_ := set $tls "made" (dict "secret" "kulprit-central-tls" "config_map" "kulprit-central-ca") -}}
{{- else -}}
  {{- $_ := required "tls.mode is `given`: set tls.secret" .Values.tls.secret -}}
  {{- $_ := set $tls "certificate" "/etc/kulprit/tls/tls.crt" -}}
  {{- $_ := set $tls "key" "/etc/kulprit/tls/tls.key" -}}
{{- end -}}
{{- if .Values.tls.clientCaSecret }}{{ $_ := set $tls "client_ca" "/etc/kulprit/client-ca/ca.crt" }}{{ end -}}
{{- $_ := set $config "tls" $tls -}}
{{- if and (has "certificate" (values .Values.access)) (not .Values.tls.clientCaSecret) -}}
  {{- fail "access by certificates: set tls.clientCaSecret" -}}
{{- end -}}
{{- $account := printf "%s/kulprit-agent" .Release.Namespace -}}
{{- $_ := set $config "access" (mergeOverwrite (dict "audience" "kulprit-central" "agent_account" $account) .Values.access) -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.central.config)) -}}
{{- end -}}

{{- define "kulprit.agent.config" -}}
{{- $address := printf "%s:%d" (include "kulprit.central.host" .) (int .Values.service.port) -}}
{{- $config := dict
    "central" (printf "https://%s" $address)
    "state_dir" "/var/lib/kulprit"
    "run_dir" "/var/lib/kulprit"
    "host_root" "/host"
    "log" (dict "format" .Values.log.format "filter" .Values.log.filter)
-}}
{{- with .Values.cluster }}{{ $_ := set $config "cluster" . }}{{ end -}}
{{- $tls := dict "ca" "/etc/kulprit/ca/ca.crt" -}}
{{- if .Values.agent.certificateSecret -}}
  {{- $_ := set $tls "certificate" "/etc/kulprit/tls/tls.crt" -}}
  {{- $_ := set $tls "key" "/etc/kulprit/tls/tls.key" -}}
{{- else if and (eq .Values.access.agents "certificate") (not (dig "tls" "certificate" "" .Values.agent.config)) -}}
  {{- fail "access.agents is `certificate`: set agent.certificateSecret, or agent.config.tls to files of each node" -}}
{{- end -}}
{{- $_ := set $config "tls" $tls -}}
{{- if eq .Values.access.agents "token" }}{{ $_ := set $config "token" "/var/run/secrets/kulprit/token" }}{{ end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.agent.config)) -}}
{{- end -}}
