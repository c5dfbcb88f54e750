"""Codes of findings about what a node writes into its kernel and into etcd."""

from mesh.core.findings import Code

NOT_WRITTEN = Code(
    "D601",
    "A row cannot be written to its map, link, route or etcd key. It is tried again with growing "
    "pauses; all other rows are written. Row * is the whole target.",
    "Act on the error that the text names.",
)
FULL = Code(
    "D608",
    "A map has not room for all rows. Those of the first ranks are in it; the text says what the "
    "others lack. They are written as soon as there is room.",
    "Make the map larger in the agent's configuration, or have fewer of its rows.",
)
