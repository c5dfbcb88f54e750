{{- /* The configuration files of the processes. `node` and `instance` are in the environment. */ -}}
{{- define "agent.yaml" -}}
{{ include "cluster" . }}
mode: {{ .Values.mode }}
overlayPort: {{ include "overlayPort" . }}
{{ include "etcd" . }}
bpffs: {{ .Values.host.bpffs }}/meshgate
cgroup: /run/cgroup
uplink: {{ .Values.uplink }}
hosts: {{ .Values.hosts }}
socket: {{ .Values.host.runDir }}/agent.sock
stateDir: {{ .Values.host.stateDir }}/agent
cni:
  socket: {{ .Values.host.runDir }}/cni.sock
  confDir: {{ .Values.cni.confDir }}
  binDir: {{ .Values.cni.binDir }}
{{- if eq .Values.mode "whole" }}
masquerade:
  mode: {{ .Values.masquerade.mode | quote }}
  nonMasqueradeCIDRs: {{ .Values.masquerade.nonMasqueradeCIDRs | toJson }}
  ports: {{ .Values.masquerade.ports }}
{{- end }}
services:
  kubeProxy: {{ .Values.services.kubeProxy }}
datapath:
  xdp: {{ .Values.datapath.xdp | quote }}
{{ include "bgp" . }}
srv6:
  domain: {{ .Values.srv6.domain | toJson }}
{{ include "egress" . }}
{{- with .Values.agent.limits }}
limits: {{ . | toJson }}
{{- end }}
{{- end }}

{{- define "controller.yaml" -}}
{{ include "cluster" . }}
overlayPort: {{ include "overlayPort" . }}
{{ include "etcd" . }}
pools:
  podCIDRs: {{ .Values.pools.podCIDRs | toJson }}
  locators: {{ .Values.pools.locators | toJson }}
stateDir: {{ .Values.host.stateDir }}/controller
socket: {{ .Values.host.runDir }}/controller/controller.sock
leaseSeconds: {{ .Values.controller.leaseSeconds }}
{{ include "egress" . }}
{{- end }}

{{- define "feed.yaml" -}}
{{ include "cluster" . }}
{{ include "etcd" . }}
stateDir: {{ .Values.host.stateDir }}/feed
socket: {{ .Values.host.runDir }}/feed/feed.sock
listen: "[::]:{{ .Values.feed.port }}"
tls:
  cert: /etc/meshgate/feed/tls.crt
  key: /etc/meshgate/feed/tls.key
{{- if .Values.feed.clientCA }}
  clientCA: /etc/meshgate/feed/{{ .Values.feed.clientCA }}
{{- end }}
firewalls: {{ .Values.feed.firewalls | toJson }}
{{- end }}

{{- define "speaker.yaml" -}}
{{ include "cluster" . }}
{{ include "etcd" . }}
runDir: {{ .Values.host.stateDir }}/speaker
socket: {{ .Values.host.runDir }}/speaker.sock
exabgpUser: meshgate-bgp
bpffs: {{ .Values.host.bpffs }}/meshgate
mode: {{ .Values.mode }}
{{ include "bgp" . }}
secretsNamespace: {{ .Release.Namespace }}
{{- end }}
