"""Codes of findings about egress policies."""

from mesh.core.findings import Code

CONFLICT = Code(
    "E301",
    "Two egress policies want the same network of the same pod. The older policy has it.",
    "Change the selectors or destinations of one of the policies.",
)
NO_GATEWAY = Code(
    "E302",
    "The gateways of an egress policy select no node with an IPv4 address. Covered packets "
    "are dropped.",
    "Label a node so that it is selected, or change gateways.nodeSelector.",
)
NO_ADDRESS = Code(
    "E303",
    "An egress policy has destinations of a family of which it has no egress address. Covered "
    "packets to them are dropped.",
    "Add an egress address of the family, or remove the destinations.",
)
SHARED_ADDRESS = Code(
    "E304",
    "Two egress policies share an egress address, but not its gateway. The gateway of the older "
    "policy is used.",
    "Give one of the policies another egress address, or both the same gateway.",
)
POOLS_OVERLAP = Code(
    "M210",
    "Two EgressPools overlap. The older pool has the addresses; the network of the other one is "
    "not used.",
    "Change spec.cidrs of one of the pools.",
)
OUTSIDE_POOLS = Code(
    "M211",
    "A fixed egress address is in no EgressPool, though there are pools. It is used as it is.",
    "Add its network to a pool, or take an address out of one.",
)
NO_POOL = Code(
    "M212",
    "An egress policy names an EgressPool that does not exist. It has no address, and covered "
    "packets are dropped.",
    "Create the pool, or change spec.pool of the policy.",
)
NO_FREE_ADDRESS = Code(
    "M213",
    "No address of an EgressPool is free for an egress policy. Covered packets are dropped.",
    "Add a network to the pool, or remove policies that use it.",
)
DENIED = Code(
    "M214",
    "A fixed egress address is denied by an EgressPool. The policy does not use it, and covered "
    "packets are dropped.",
    "Change spec.addresses of the policy, or spec.deny of the pool.",
)
LEAKED = Code(
    "M247",
    "Packets of a covered pod have left its node to a covered network with another source than an "
    "egress address. A program on the host has sent them on, a translation of the host or of "
    "another CNI has, or Meshgate is wrong. The finding ends a day after the last one.",
    "Look at the rules of the host that translate or forward what the pod sends (`nft list "
    "ruleset`), and at the links of its device (`bpftool net`). If both are as they should be, "
    "report it with `meshgate leak list`.",
)
COVERED_IN_VRF = Code(
    "M248",
    "An egress policy covers networks that are destinations of the VRF of a pod. The VRF has them: "
    "the pod's packets to them leave by the VRF, without an egress address. All else that the "
    "policy covers is translated, or dropped.",
    "Exclude the networks from the policy (excludedCIDRs) or the pod from its selectors, or take "
    "them out of the VRF's destinations.",
)
TIMERS_FULL = Code(
    "M270",
    "The connections of a node have as many different sets of timers as there are numbers for. "
    "New connections of this policy have the timers of all connections.",
    "Give policies the same `timers`. A set that no policy names any more makes room when its last "
    "connection has ended.",
)
NO_FURTHER_ADDRESS = Code(
    "M271",
    "Pods of a node use 60 % of the ports that the node can have of each address of an egress "
    "policy, and its EgressPool has no further address. Nothing is lost yet; when the ports are "
    "used up, new connections are dropped (NO_RUN).",
    "Add a network to the pool.",
)
BLOCK_SIZE_LATER = Code(
    "M272",
    "An EgressPool says another size of blocks than one of its addresses has had since a policy "
    "got it. The address keeps its blocks: of two sizes they would overlap. New addresses have the "
    "new size.",
    "Nothing, or take the address from its policies until it has drained, and 120 s more.",
)
GRANT_OF_UNKNOWN = Code(
    "M273",
    "An EgressPool has a grant for a cluster that is not in the mesh. Nobody gets anything by it.",
    "Correct spec.grants of the pool, or add the cluster (`meshgate cluster list`).",
)
POOL_OF_UNKNOWN = Code(
    "M274",
    "An egress policy names a pool of a cluster that is not in the mesh, or of its own cluster "
    "with the cluster's name. It has no address, and covered packets are dropped.",
    "Correct spec.pool of the policy, or add the cluster (`meshgate cluster list`).",
)
UNEXPLAINED = Code(
    "E390",
    "An egress policy has no gateway, and no controller says why. Covered packets are dropped.",
    "Look at gateways.nodeSelector of the policy, and at the controller of the cluster.",
)
HISTORY_NOT_KEPT = Code(
    "M241",
    "A node cannot write into the store which pods have which ports. The log on the node grows, "
    "and when it is full no pod of the node gets further ports.",
    "Look whether etcd answers. Where the text says that the user may not write, give the node "
    "its rights anew: `meshgate cluster node NAME --issue`.",
)
HISTORY_COARSE = Code(
    "M242",
    "A node has lent more runs of ports in a day than the history keeps one by one. Until the day "
    "is over `meshgate egress whois` names all pods that had ports of the block in that hour.",
    "Find the pods that get and return ports again and again, and give the policy a quota of "
    "ports.",
)
LOG_FILLS = Code(
    "M243",
    "The log of ports that a node has lent is not taken into the store as fast as it grows. When "
    "it is full no pod of the node gets further ports (NO_RUN).",
    "Look whether the agent of the node runs and whether etcd answers.",
)
GATEWAY_SILENT = Code(
    "M229",
    "A gateway has left three probes of a node unanswered. The node sends by the other gateways of "
    "its egress addresses, and no connection is lost by it.",
    "Look at that gateway, and at the network between it and the node that says so. It gets "
    "packets again as soon as it answers.",
)
NONE_ANSWERS = Code(
    "M230",
    "No gateway of an egress address answers a node. What the node would send by the address is "
    "dropped (NO_EGRESS_GATEWAY); connections go on when a gateway answers.",
    "Look at the node's own uplink when it reaches no gateway at all, else at the gateways.",
)
DIRECT_CLOSED = Code(
    "M275",
    "An egress policy says `outbound: direct`, and a gateway of its address has not answered the "
    "last three echoes that a node has sent straight to it with the address. So the node sends by "
    "the gateways: no connection is lost, and packets take the longer way.",
    "Let the fabric carry the egress address from this node: look at source checks of the router's "
    "port (strict uRPF), of the switch and of the hypervisor. Or say `outbound: gateway`.",
)
NO_OWNER = Code(
    "M260",
    "No node speaks for an egress address on layer 2: no gateway of it says that it is there. "
    "Routers get no answer when they ask who has the address, and packets to it are lost.",
    "Look whether the agents of the gateways run and reach etcd (`meshgate status`).",
)
TWO_OWNERS = Code(
    "M261",
    "A node is the owner of an egress address on layer 2 by what it reads from the store, and "
    "another gateway shows a later claim. This node's kernel is silent; the other one answers.",
    "Look whether this node reaches the same etcd as the controllers.",
)
MAC_REFUSED = Code(
    "M262",
    "The uplink of a gateway does not take the virtual MAC address of an egress address into its "
    "filter. Frames for the address may not reach the node when it is the owner.",
    "Use an uplink that takes further unicast addresses, or set it to promiscuous mode (`ip link "
    "set DEVICE promisc on`); clouds refuse foreign MAC addresses, so use BGP there.",
)
WORD_ENDED = Code(
    "M263",
    "A node owns an egress address on layer 2 and is silent: for ten seconds neither etcd nor "
    "another gateway of the address has answered its agent.",
    "Look at the node's uplink. Another gateway has taken the address over if there is one.",
)
