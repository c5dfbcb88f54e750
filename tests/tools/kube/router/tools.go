//go:build tools

// Package tools names what this module is pinned for: kube-router, a CNI that Meshgate runs beside.
package tools

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
