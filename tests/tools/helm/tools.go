//go:build tools

// Package tools names what this module is pinned for: real Helm, with which tests compare our own
// rendering of the chart.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
