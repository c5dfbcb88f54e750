"""Codes of findings about BFD."""

from mesh.core.findings import Code

SESSION_DOWN = Code(
    "B250",
    "A BFD session that was up is down: the way to a router has failed, or the router. Its next "
    "hops are not used, and its BGP session is closed.",
    "Look at the link and at the router. The session comes up by itself.",
)
NEVER_UP = Code(
    "B251",
    "A BFD session has not come up. A failure of the way to the router is found by BGP's hold "
    "timer only; traffic is not touched.",
    "Configure BFD for this node on the router, with the same kind (one hop or several) and "
    "password; `meshgate bfd list` says what comes from it.",
)
PACKETS_REFUSED = Code(
    "B252",
    "A node refuses a router's BFD packets. The session stays down.",
    "Act on the reason that the text names: it is a check of RFC 5880 6.8.6 or RFC 5881 5.",
)
NOT_DIRECT = Code(
    "B253",
    "A BGPPeer has BFD for one hop, and its router is not in a network of the node. Its packets "
    "would cross another router, which one-hop BFD refuses.",
    "Set spec.bfd.multihop, here and on the router.",
)
TOO_MANY = Code(
    "B254",
    "A node has more BFD sessions than the datapath has room for. Those that are named do without.",
    "Let fewer BGPPeers with spec.bfd select the node.",
)
UNREAD = Code(
    "B255",
    "The speaker cannot read the BFD states of its node. A session that goes down is not closed "
    "at once; next hops in the datapath are not used all the same.",
    "Let the speaker read the directory of BPF maps that `bpffs` of its configuration names.",
)
