"""Codes of findings about the store, and about what other clusters claim.

M121 to M139: claims of a peer that are refused (``reference/clustermesh-wire.md`` 16 and 22.4).
From M141: our own cluster in the store. M176 to M181: contracts with other clusters.
"""

from mesh.core.findings import Code

_TELL = "Tell the operators of the other cluster."

CAPABILITIES = Code(
    "M121",
    "The config of another cluster asks for something that this mesh has not. Nothing of that "
    "cluster is used.",
    f"{_TELL} The field names the difference.",
)
CLUSTER_NAME = Code(
    "M122",
    "The cluster name in a key or value is no name, or not the name of the cluster that wrote it.",
    _TELL,
)
CLUSTER_ID = Code(
    "M123",
    "The cluster id in a value is out of range, or not the id of the cluster that wrote it.",
    _TELL,
)
ID_TAKEN = Code(
    "M124",
    "Another cluster has an id that a cluster has already. Nothing of the later one is used.",
    "Give one of the clusters another id.",
)
IDENTITY_RANGE = Code(
    "M125",
    "Another cluster claims an identity outside its own range. The key is not used.",
    _TELL,
)
RESERVED = Code(
    "M126",
    "Another cluster claims a reserved identity for an address that cannot have it. The key is not "
    "used.",
    _TELL,
)
OUTSIDE = Code(
    "M127",
    "Another cluster claims an address outside the pod CIDRs of its nodes, behind a node that has "
    "a pod CIDR of that family. The key is not used.",
    f"{_TELL} The key is used as soon as a node with such a pod CIDR is accepted.",
)
ADDRESS_TAKEN = Code(
    "M128",
    "Another cluster claims an address that another node or pod has, or that is no address of a "
    "host. The key is not used.",
    "Give one of the two that the text names another address.",
)
PREFIX_TAKEN = Code(
    "M129",
    "Another cluster claims a prefix that overlaps the prefix of another node or cluster, or one "
    "that no pods can have. The node is not used as it is now.",
    "Give one of the two that the text names another prefix.",
)
MISMATCH = Code(
    "M130",
    "A name, number or address in a key or value of another cluster is not spelt as it must be, "
    "or key and value differ in it. The key is not used.",
    _TELL,
)
BACKEND_OUTSIDE = Code(
    "M131",
    "A service of another cluster has a backend that is neither a pod nor a node of that cluster. "
    "That backend gets no connections; the others are used. When all are so, the service stays as "
    "it was before.",
    _TELL,
)
TOO_LARGE = Code(
    "M132",
    "A value of another cluster is larger than any that is meant. The key is not used.",
    _TELL,
)
UNREADABLE = Code(
    "M133",
    "A value of another cluster cannot be decoded. The key is not used as it is now.",
    _TELL,
)
TOO_MANY = Code(
    "M134",
    "Another cluster has more keys of a noun than are read, or longer ones than any that is meant. "
    "The further ones are not used.",
    f"{_TELL} It may be larger than this mesh is meant for.",
)
NO_ENDPOINT = Code(
    "M135",
    "Another cluster claims an address behind a host that is none of its nodes. The key is not "
    "used.",
    f"{_TELL} The key is used as soon as the node is accepted.",
)
LABELS = Code(
    "M136",
    "The labels of another cluster's identity are misspelt, or do not name that cluster. The key "
    "is not used.",
    _TELL,
)
NO_CONFIG = Code(
    "M137",
    "Another cluster has keys, but no cluster config. None of its keys is used.",
    "Start a controller of that cluster, or remove its keys.",
)
MORE = Code(
    "M139",
    "More keys of another cluster are refused than are listed one by one.",
    "Act on the findings that are listed.",
)
BEYOND_PROVISIONAL = Code(
    "M176",
    "Another cluster has no contract here, and its key needs one: it has pods outside private and "
    "unique-local space, or pods or nodes where our egress policies, routes, routers and the store "
    "are. The key is not used.",
    "If the cluster is to have it, write a ClusterPeer that gives it; else tell its operators.",
)
BEYOND_CONTRACT = Code(
    "M177",
    "A key of another cluster claims more than its contract gives. The key is not used.",
    f"{_TELL} If the cluster is to have it, give it in the ClusterPeer that the text names.",
)
OVER_LIMIT = Code(
    "M178",
    "Another cluster has more rows of a noun than its contract's limits allow. The further ones "
    "are not used.",
    f"{_TELL} Or give it a greater number in `spec.limits` of its ClusterPeer.",
)
SECOND_CONTRACT = Code(
    "M179",
    "Two ClusterPeers are about one cluster. The one that was in force stays so; at a start it is "
    "the first by name. The other one is not used.",
    "Remove one of the two.",
)
CONTRACT_OVERLAP = Code(
    "M180",
    "A ClusterPeer gives pod CIDRs that meet ours, or those of another ClusterPeer. It is not "
    "used as it is now; the contract of before stays in force.",
    "Correct the field that the finding names.",
)
CONTRACT_ID = Code(
    "M181",
    "A ClusterPeer says another cluster id than the cluster does, or the id of another cluster. "
    "A cluster that is in use stays as it is; a new one is not taken in.",
    "Correct `spec.id`, or give the cluster another id.",
)
OWN_UNREADABLE = Code(
    "M141",
    "A key of our own cluster in etcd cannot be read. It counts as absent.",
    "Look which program wrote the key. Only processes of the cluster may.",
)
POOL_FULL = Code(
    "M145",
    "A pool has no free number for an owner. A node without a pod CIDR gets no pods, a pod without "
    "an identity is not connected, a node without a block opens no connections of the address.",
    "Make the pool larger, or add another one. Released numbers are free again after a while.",
)
OTHER_CONFIG = Code(
    "M146",
    "A controller's configuration is not the one that the controllers of its cluster agreed on. "
    "It does not lead.",
    "Give all controllers of the cluster the same configuration.",
)
ID_USED = Code(
    "M147",
    "Another cluster publishes the id of this one. The controller does not lead.",
    "Give one of the clusters another id.",
)
CANNOT_WRITE = Code(
    "M149",
    "The leader cannot write a key to etcd. It is tried again with growing pauses; all other keys "
    "are written. Key * is all of them.",
    "Act on the error that the text names; the controller's role in etcd may lack a prefix.",
)
NOT_RESTORED = Code(
    "M150",
    "A claim could not be given back to a store that was replaced, because another owner has the "
    "number by now. The owner of the claim gets another number.",
    "Nothing is to be done. Connections of the owner that name the number end.",
)
STORE_AWAY = Code(
    "M151",
    "An agent or a controller cannot read etcd. Its maps, routes and published keys stay as they "
    "are; changes wait.",
    "Start etcd, mend the way to it, or mend the certificate and role of the process.",
)
NOT_LEADING = Code(
    "M152",
    "A controller cannot stand for the leadership.",
    "Act on the error that the text names; the controller's role in etcd may lack a prefix.",
)
NOT_SAVED = Code(
    "M153",
    "A controller cannot write down the claims or pods of its cluster. A store that is replaced "
    "does not get them back.",
    "Make room in the controller's state directory, and make it writable.",
)
NOT_PUBLISHED = Code(
    "M154",
    "A prefix of one of our nodes is not published, because another cluster published one that "
    "meets it before. Other clusters do not reach the pods in it.",
    "Give one of the two clusters another pool.",
)
CONTRADICTION = Code(
    "M155",
    "The two keys of a claim contradict each other. Its owner gets no number.",
    "Remove the owner's key, which the finding names; a controller then claims anew.",
)
NOT_CLAIMED = Code(
    "M158",
    "The store refuses the claim of one owner, which gets no number; all others get theirs. A node "
    "without a pod CIDR gets no pods, a pod without an identity is not connected.",
    "Act on the error that the text names: the owner's name may be too long for etcd, or the "
    "controller's role may lack a prefix.",
)
NO_HEARTBEAT = Code(
    "M156",
    "The leader cannot put the heartbeat into etcd. Cilium clusters that read this etcd connect "
    "anew and list everything again every two minutes.",
    "Act on the error that the text names. The controller's role in etcd needs the key: a store "
    "that an earlier version made gets the grant when its users are made again.",
)
SERVICE_TOO_LARGE = Code(
    "M160",
    "A global service has too many backends for the first form of services on the wire. Other "
    "clusters that read this form, as Cilium before 1.21 does, do not see it.",
    "Let the other clusters read slices of services, or give the service fewer backends.",
)
LOCK_HELD = Code(
    "M140",
    "A kvstoremesh waits for a lock of the shared etcd that another one holds. The clusters that "
    "it mirrors are not published here.",
    "Let one kvstoremesh write into an etcd, with a file for each Cilium cluster, and stop the "
    "other one.",
)
AWAITED = Code(
    "D610",
    "An agent knows a cluster that the store, which was replaced, does not have. The rows of that "
    "cluster stay in the maps: global services keep its backends, its pods their addresses.",
    "Start a controller or kvstoremesh of that cluster. If the cluster is gone for good, say "
    "`meshgate cluster forget NAME`.",
)
VANISHED = Code(
    "M170",
    "Another cluster was in the mesh and has gone, since its lease has ended, its keys were "
    "deleted, or its counter stands (M188). Its services, identities and addresses are withdrawn "
    "here.",
    "Start a controller of that cluster. If the cluster is gone for good, say `meshgate cluster "
    "forget NAME`.",
)
NOT_UTF8 = Code(
    "M171",
    "A key in etcd is no UTF-8 text. It counts as absent; all other keys are used.",
    "Look which program wrote the key, and delete it: `etcdctl del` with the key's bytes.",
)
NOT_TAKEN = Code(
    "M172",
    "A key in etcd, or its value, meets a mistake in Meshgate. The key is not used as it is now; "
    "all other keys are.",
    "Report the text to Meshgate's developers. The log of the process has the details.",
)
TOO_FAST = Code(
    "M174",
    "Another cluster changes more than is judged at once. Its own changes wait, and the last one "
    "of each key counts; those of all other clusters are in time.",
    f"{_TELL} A key that is written again and again, or a node that comes and goes, is the cause.",
)
BYTES = Code(
    "M175",
    "Another cluster has more bytes of values than are kept, or of refused ones. The key is not "
    "used, and is judged again only when it is written or listed again.",
    f"{_TELL} When the values are right, the cluster is larger than this mesh is meant for.",
)
CERTIFICATE_ENDS = Code(
    "M182",
    "The certificate with which a process speaks to etcd ends soon, or has ended, or cannot be "
    "read. Once it has ended, the process cannot connect anew; its maps and routes stay as they "
    "are.",
    "Look why the timer on the host of the CA has not renewed it. `meshgate cluster node NAME "
    "--issue`, where the CA is, makes new files. Put them where the process has them; it needs no "
    "restart.",
)
USER_REVOKED = Code(
    "M183",
    "The etcd user of a node, a speaker or a controller was revoked. The process can neither read "
    "nor write. The maps and routes of its host stay as they are.",
    "Make the host anew, then say `meshgate cluster node NAME --issue`. If it is gone for good, "
    "remove its Node object.",
)
COUNTER_STANDS = Code(
    "M188",
    "The counter of another cluster, its leader's key, has stood for longer than that cluster "
    "allows, although its keys are in the store. No controller of the cluster writes, and a user "
    "of etcd keeps its leases alive. Its services, identities and addresses are withdrawn here.",
    "Start a controller of that cluster. If there is none any more, remove its keys, and find the "
    "user that renews their leases: any user of etcd can.",
)
NO_COUNTERS = Code(
    "M189",
    "A process may not read the counters of other clusters. It takes a cluster for present as long "
    "as the cluster's leases live, and any user of etcd can keep these alive.",
    "Give the role of the process the right to read meshgate/v1/: make the users again.",
)
COMPACTED = Code(
    "M195",
    "The history of etcd was compacted beyond the last event that a process had read. The process "
    "has listed everything anew; nothing was lost or withdrawn. While compactions go on, each list "
    "costs more.",
    "Compact seldom, as etcd does by itself (--auto-compaction-retention=1h). Any user of etcd can "
    "compact it: find the one that does.",
)
ALARM = Code(
    "M196",
    "An alarm stands in etcd, which therefore takes no writes. Maps, routes and published keys "
    "stay; no claims are made, no pod is published, and no controller can take a leadership over.",
    "NOSPACE: remove the keys that finding M197 names, compact, defragment, then `etcdctl alarm "
    "disarm`. "
    "CORRUPT: replace the member that differs. Any user of etcd can raise an alarm: if there is no "
    "cause, find the user that did.",
)
FILLING = Code(
    "M197",
    "The database of etcd has at least half of its quota. When it is full, etcd takes no writes. "
    "The text names the prefixes that hold and write the most, from a sample of the leader's.",
    "Remove the keys that the text names, or have their cluster remove them. Compact and "
    "defragment. Set "
    "etcd.quotaBytes of the controller when etcd runs with another --quota-backend-bytes than 2 "
    "GiB.",
)
NOT_REMEMBERED = Code(
    "D605",
    "An agent cannot write down which clusters it knows. After a restart without etcd, it may "
    "remove the addresses of clusters that were there.",
    "Make room in the agent's state directory, and make it writable.",
)
