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
NOT_GATHERED = Code(
    "M251",
    "The kernel of a node does not gather fragments for us. Fragments of pods and of egress "
    "addresses that come out of order are dropped (175); those in order pass.",
    "Act on the error that the text names: it takes a kernel from 6.6 on, with "
    "CONFIG_NETFILTER_BPF_LINK, and policy routing. Then restart the agent.",
)
NO_XDP = Code(
    "V500",
    "The configuration asks for XDP on the uplink (`datapath.xdp: on`), and its driver refuses the "
    "program. The tc program does the same work.",
    "Set `datapath.xdp` to auto, take the other XDP program off the device, or use an MTU with "
    "which the driver takes XDP.",
)
