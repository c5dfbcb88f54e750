//go:build tools

// Package tools names what this module is pinned for: the binaries of real Kubernetes that
// tests/e2e starts.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
