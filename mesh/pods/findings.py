"""Codes of findings about pods."""

from mesh.core.findings import Code

NO_ADDRESS = Code(
    "D604",
    "The pod CIDRs of the node have no free address. The pod is not connected.",
    "Remove pods from the node, or give its cluster another pool of pod CIDRs.",
)
NOT_FOUND = Code(
    "M232",
    "Beside another CNI: the object of a pod of this node says which addresses the pod has, and no "
    "network namespace of the host has them on eth0. Nothing of the pod is ours: no egress policy "
    "covers the pod, and no other cluster reaches it.",
    "Look into /run/netns: the container runtime has to make its namespaces there, and the agent "
    "has to see those that come (mount propagation HostToContainer).",
)
NO_HOST_DEVICE = Code(
    "M233",
    "Beside another CNI: eth0 of a pod is no veth, so no device of the host leads to the pod. "
    "Nothing of the pod is ours: no egress policy covers the pod, and no other cluster reaches it.",
    "Let the other CNI connect pods by veths (not by macvlan, ipvlan or a device of the host).",
)
NAMESPACES = Code(
    "D606",
    "The folder of the pods' network namespaces cannot be read. Pods stay wired as they are; new "
    "ones wait.",
    "Correct podNetns in the agent's configuration, or make the folder readable.",
)
