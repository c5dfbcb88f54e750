//go:build tools

// Package tools pins the reference client of CNI.
package tools

import _ "github.com/containernetworking/cni/cnitool"
