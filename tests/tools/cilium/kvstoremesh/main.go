// Cilium's kvstoremesh alone: the command of that name, of the program clustermesh-apiserver. The
// whole program needs a module that the Go proxy does not serve (sigs.k8s.io/mcs-api/controllers).
package main

import (
	"os"

	"github.com/cilium/cilium/clustermesh-apiserver/common"
	"github.com/cilium/cilium/clustermesh-apiserver/kvstoremesh"
	"github.com/cilium/cilium/pkg/hive"
)

func main() {
	if kvstoremesh.NewCmd(hive.New(common.Cell, kvstoremesh.Cell)).Execute() != nil {
		os.Exit(1)
	}
}
