{{- define "labels" -}}
app.kubernetes.io/name: meshgate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "overlayPort" -}}
{{- if .Values.overlayPort -}}
{{ .Values.overlayPort }}
{{- else if eq .Values.mode "beside" -}}
8473
{{- else -}}
8472
{{- end }}
{{- end }}

{{- define "cluster" -}}
cluster:
  name: {{ .Values.cluster.name }}
  id: {{ .Values.cluster.id }}
kubernetes:
{{- if .Values.kubernetes.host }}
  host: {{ .Values.kubernetes.host | quote }}
{{- else }} {}
{{- end }}
{{- end }}

{{- define "egress" -}}
egress:
  blockSize: {{ .Values.egress.blockSize }}
  blocksPerNode: {{ .Values.egress.blocksPerNode }}
{{- end }}

{{- /* Agent and speaker meet in this table of the kernel. */ -}}
{{- define "bgp" -}}
bgp:
  table: {{ .Values.bgp.table | int64 }}
{{- end }}

{{- /* Its endpoints are in the environment: MESHGATE_ETCD, from the ConfigMap of the hook. */ -}}
{{- define "etcd" -}}
etcd:
  ca: /etc/meshgate/etcd/ca.crt
  cert: /run/certificates/tls.crt
  key: /run/certificates/tls.key
{{- if .Values.etcd.quotaBytes }}
  quotaBytes: {{ .Values.etcd.quotaBytes | int64 }}
{{- end }}
{{- end }}

{{- /* Of every pod: it must run on a node that has no network for pods yet, and on any node. */ -}}
{{- define "everywhere" -}}
hostNetwork: true
dnsPolicy: Default
tolerations:
- operator: Exists
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- define "confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
capabilities:
  drop: [ALL]
{{- end }}

{{- define "hostArgument" -}}
{{- if .Values.kubernetes.host }}
- --kubernetes-host={{ .Values.kubernetes.host }}
{{- end }}
{{- end }}

{{- define "environment" -}}
- name: MESHGATE_ETCD
  valueFrom:
    configMapKeyRef: {name: meshgate-etcd, key: endpoints}
- name: MESHGATE_NODE
  valueFrom:
    fieldRef: {fieldPath: spec.nodeName}
- name: MESHGATE_RUN
  value: {{ .Values.host.runDir }}
{{- end }}

{{- /* The token that names the node of its pod; the controller gives a certificate for it. */ -}}
{{- define "issued" -}}
- name: certificates
  emptyDir: {medium: Memory}
- name: etcd
  configMap: {name: meshgate-etcd}
- name: issuer-token
  projected:
    sources:
    - serviceAccountToken: {path: token, audience: meshgate-issuer, expirationSeconds: 3600}
{{- end }}

{{- /* The Secret with the CA of etcd and its root. */ -}}
{{- define "pki" -}}
{{- if .Values.etcd.enabled -}}
meshgate-ca
{{- else -}}
{{ .Values.etcd.external.secret }}
{{- end }}
{{- end }}

{{- define "prepares" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
