"""Real Kubernetes clusters on this machine: nodes are namespaces with real kubelet and containerd.

Read in the order topology, places, builds, images, secrets, configs, cgroups, init, bringup, cli.
"""
