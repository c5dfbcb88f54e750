"""Codes of findings about BGP sessions and routes."""

from mesh.core.findings import Code

SESSION_DOWN = Code(
    "B201",
    "A BGP session is not established. The router has no routes of this node.",
    "Act on the reason that the text names; `meshgate peer list` shows all sessions.",
)
NO_NODE = Code(
    "B202",
    "A BGPPeer selects no node of the cluster. Nobody peers with its router.",
    "Change spec.nodeSelector, or label a node.",
)
NOTHING_TO_SAY = Code(
    "B203",
    "A session has no prefix to announce from this node.",
    "Change spec.advertise, or look why the node has no such prefix.",
)
EXABGP_AWAY = Code(
    "B204",
    "The speaker cannot reach its ExaBGP. Sessions and routes stay as they are; changes wait.",
    "The speaker starts and asks ExaBGP again by itself. If this stays, read the speaker's log.",
)
NO_LOCAL_ADDRESS = Code(
    "B205",
    "The node has no address of the router's family. It has no session with this router.",
    "Give the node an address of the family, or the BGPPeer a router's address of another one.",
)
FAMILY_REFUSED = Code(
    "B206",
    "The router does not take an address family. Routes of the family are not sent to it.",
    "Enable the family in the router's configuration.",
)
TWO_PEERS = Code(
    "B207",
    "Two BGPPeers name one router's address for the same node. The first one by name has the "
    "session.",
    "Change the address or the node selector of one of them.",
)
NOT_ANNOUNCED = Code(
    "B208",
    "ExaBGP does not take a route. The router does not get it.",
    "Act on the error that the text names.",
)
STORE_AWAY = Code(
    "B209",
    "The speaker cannot read etcd. Its announcements stay as they are.",
    "Start etcd, mend the way to it, or mend the speaker's certificate and role.",
)
CLAIM_UNREADABLE = Code(
    "B211",
    "The speaker cannot read a claim of its cluster in etcd. It counts as absent.",
    "Look which program wrote the key. Only controllers of the cluster may.",
)
NO_NEXT_HOP = Code(
    "B213",
    "The node has no address of a prefix's family to be its next hop. The prefix is not announced.",
    "Give the Node object an address of the family.",
)
NO_ROUTER_ID = Code(
    "M208",
    "The node has no IPv4 address to take as BGP identifier, and the speaker's configuration names "
    "none. The node has no BGP sessions.",
    "Set routerID in the speaker's configuration.",
)
NO_OBJECT = Code(
    "B214",
    "The node of a speaker has no Node object. The node announces nothing; its sessions stay.",
    "Create the Node object, or correct the node's name in the speaker's configuration.",
)
NOT_REMEMBERED = Code(
    "B215",
    "The speaker cannot write down what ExaBGP announces. After a restart of ExaBGP, the routes "
    "come back only when manifests and claims were read.",
    "Make room in the speaker's run directory, and make it writable.",
)
ODD_LINE = Code(
    "B216",
    "ExaBGP has said something of a session that the speaker cannot read. The session's state may "
    "be older than it looks; routes and other sessions go on.",
    "Compare ExaBGP's version with the lock; look into its log for what the router has sent.",
)
FORMER_EXABGP = Code(
    "B217",
    "ExaBGP runs as another user than it should, because it was started before an update or before "
    "exabgpUser was changed. It keeps its sessions.",
    "End it when routers may restart gracefully; the speaker starts one as the right user.",
)
LOG_STAYS = Code(
    "B218",
    "ExaBGP's log cannot be begun anew. It grows on.",
    "Make room in the speaker's run directory, and make it writable.",
)
SESSION_AWAY = Code(
    "B291",
    "A BGP session is not established, and its speaker does not say so itself.",
    "Act on the reason that the text names.",
)
