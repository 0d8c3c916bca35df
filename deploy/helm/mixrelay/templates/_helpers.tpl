{{- define "mixrelay.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}
{{- define "mixrelay.labels" -}}
app.kubernetes.io/name: mixrelay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "mixrelay.secret" -}}
{{- .Values.secret.existing | default (printf "%s-keys" (include "mixrelay.name" .)) -}}
{{- end }}
{{- define "mixrelay.config" -}}
{{- $server := merge (dict "listen" "0.0.0.0:8080" "admin_listen" "0.0.0.0:9090") .Values.server -}}
{{- merge (dict "server" $server "store" "sqlite:/var/lib/mixrelay/mixrelay.db") .Values.config | toYaml -}}
{{- end }}
