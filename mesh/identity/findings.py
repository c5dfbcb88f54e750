"""Codes of findings about identities."""

from mesh.core.findings import Code

LABELS_TOO_LONG = Code(
    "M159",
    "A pod's labels are too long for an identity. The pod gets none and is not connected; all "
    "other pods get theirs.",
    "Take labels off the pod, or make them annotations.",
)
