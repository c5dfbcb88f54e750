"""Codes of findings about nodes, their uplinks and the pools of their prefixes."""

from mesh.core.findings import Code

POOL_OVERLAP = Code(
    "M148",
    "A node of another cluster publishes a prefix out of a pool of this cluster. The pieces of the "
    "pool that meet it are given to no node.",
    "Give one of the two clusters another pool.",
)
NO_PREFIX = Code(
    "B212",
    "A claim of this node names a pool or a number that gives no prefix. Nothing is announced for "
    "it.",
    "Correct the pool in the controllers' configuration; a controller then claims anew.",
)
WRONG_ENDPOINT = Code(
    "D602",
    "The first IPv4 address of the Node object is not that of the uplink. Other nodes tunnel to "
    "the wrong address.",
    "Correct status.addresses of the Node object, or the uplink in the agent's configuration.",
)
NO_OBJECT = Code(
    "D603",
    "The node of an agent has no Node object. It is no gateway, announces nothing, and new pods "
    "get no addresses. Two minutes after the object has gone other nodes cannot reach the node.",
    "Create the Node object, or correct the node's name in the agent's configuration.",
)
UPLINK_CHANGED = Code(
    "D607",
    "The uplink is away, or has another index, MTU or address than at the start of the agent. The "
    "datapath goes on with the former ones.",
    "Restart the agent, which loads the datapath anew.",
)
