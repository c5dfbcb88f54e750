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
    "ExaBGP runs as another user than it should, or without changes of this version, because it "
    "was started before an update or before exabgpUser was changed. It keeps its sessions, without "
    "VPN families and without learned routes.",
    "End it when routers may restart gracefully; the speaker starts another one.",
)
LOG_STAYS = Code(
    "B218",
    "ExaBGP's log cannot be begun anew. It grows on.",
    "Make room in the speaker's run directory, and make it writable.",
)
NO_PASSWORD = Code(
    "B220",
    "The password of a BGP session is missing. A session that is up keeps the password that it "
    "has; a new one does not start, because it would be open to everyone.",
    "Write the file, or create the Secret with the key, that spec.password names.",
)
OVERLAP = Code(
    "B221",
    "The ranges of two BGPPeers overlap on one node. The first one by name has the range.",
    "Change spec.prefix or the node selector of one of them.",
)
WITHHELD = Code(
    "B222",
    "A prefix is not announced, because it is a default route or the router itself lies in it.",
    "Announce smaller prefixes, or name this one in spec.advertisements with type prefixes.",
)
MATCHES_NOTHING = Code(
    "B223",
    "An advertisement of a BGPPeer selects no prefix of the node.",
    "Change its selector or its prefixes, or label the objects that it should select.",
)
HELD = Code(
    "B224",
    "Most routes of a session would be withdrawn because their objects or claims are absent from a "
    "new list. They stay announced until the objects are back or an operator lets them go.",
    "Look whether the API server or etcd has lost objects. If the routes are to go, run `meshgate "
    "peer accept ROUTER`.",
)
SESSION_AWAY = Code(
    "B291",
    "A BGP session is not established, and its speaker does not say so itself.",
    "Act on the reason that the text names.",
)
MALFORMED = Code(
    "B230",
    "A router sends UPDATEs of which a part is malformed. Their routes count as withdrawn, and "
    "those of other UPDATEs stay, as does the session (RFC 7606).",
    "Look at the router: its version, and what it makes of the attribute that the text names.",
)
MAXIMUM = Code(
    "B231",
    "A router sends more prefixes than its BGPPeer allows. Those beyond the maximum are not taken; "
    "the session stays.",
    "Filter at the router, or raise spec.maximumPrefixes.",
)
UNREAD = Code(
    "B232",
    "The speaker cannot read back an UPDATE that ExaBGP has sent. `peer routes --advertised` may "
    "lack routes of the router.",
    "Compare ExaBGP's version with the lock, and report what the text says.",
)
KEPT_NOT = Code(
    "B233",
    "The speaker cannot keep routes of routers on the disk. After a restart they are there again "
    "only when the routers were asked.",
    "Make room in the speaker's run directory, and make it writable.",
)
TOO_FAST = Code(
    "B234",
    "Routers have sent UPDATEs faster than the speaker takes them in. What was dropped is asked "
    "for again.",
    "Give the node's speaker more CPU, or make routers send less.",
)
