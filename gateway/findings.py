"""Codes of findings about egress policies."""

from mesh.core.findings import Code

CONFLICT = Code(
    "E301",
    "Two egress policies want the same network of the same pod. The older policy has it.",
    "Change the selectors or destinations of one of the policies.",
)
NO_GATEWAY = Code(
    "E302",
    "The gateways of an egress policy select no node with an IPv4 address. Covered packets "
    "are dropped.",
    "Label a node so that it is selected, or change gateways.nodeSelector.",
)
NO_ADDRESS = Code(
    "E303",
    "An egress policy has destinations of a family of which it has no egress address. Covered "
    "packets to them are dropped.",
    "Add an egress address of the family, or remove the destinations.",
)
SHARED_ADDRESS = Code(
    "E304",
    "Two egress policies share an egress address, but not its gateway. The gateway of the older "
    "policy is used.",
    "Give one of the policies another egress address, or both the same gateway.",
)
UNEXPLAINED = Code(
    "E390",
    "An egress policy has no gateway, and no controller says why. Covered packets are dropped.",
    "Look at gateways.nodeSelector of the policy, and at the controller of the cluster.",
)
