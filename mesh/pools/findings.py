"""Codes of findings about pools of prefixes."""

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
