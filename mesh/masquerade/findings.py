"""Codes of findings about masquerade."""

from mesh.core.findings import Code

NO_ADDRESS = Code(
    "M225",
    "The pods of a node have addresses of a family of which its Node object has no InternalIP. "
    "What they send to the world carries their own addresses, and the world has no route back.",
    "Give the node an address of the family, and its Node object the InternalIP; or set "
    "masquerade.mode to off in the agent's configuration where the world knows the pods.",
)
