"""Codes of findings about pods."""

from mesh.core.findings import Code

NO_ADDRESS = Code(
    "D604",
    "The pod CIDRs of the node have no free address. The pod is not connected.",
    "Remove pods from the node, or give its cluster another pool of pod CIDRs.",
)
NAMESPACES = Code(
    "D606",
    "The folder of the pods' network namespaces cannot be read. Pods stay wired as they are; new "
    "ones wait.",
    "Correct podNetns in the agent's configuration, or make the folder readable.",
)
