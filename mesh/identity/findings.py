"""Codes of findings about identities."""

from mesh.core.findings import Code

OUTSIDE = Code(
    "M184",
    "A node says that a pod of it has an address outside of the pod CIDRs that are claimed for the "
    "node. The address does not count: no packet goes there because of it.",
    "Look at the node: its agent gives no such addresses, so another program may have its "
    "certificate. `meshgate cluster node NAME --revoke` takes it away.",
)
HELD = Code(
    "M185",
    "A node says that a pod of it has an address that another pod has. The first one keeps it; the "
    "other gets it when the first has gone.",
    "Look at both pods, and at the certificates of both nodes.",
)
NOT_CONFIRMED = Code(
    "M186",
    "A node says something of a pod that no controller has confirmed from the pod's object: that "
    "the pod is there, or its labels. The identity is the one that was confirmed, or none.",
    "Start a controller of the cluster, if none leads. Otherwise look at the node, as with M184.",
)
LABELS_TOO_LONG = Code(
    "M159",
    "A pod's labels are too long for an identity. The pod gets none and is not connected; all "
    "other pods get theirs.",
    "Take labels off the pod, or make them annotations.",
)
