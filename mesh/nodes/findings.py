"""Codes of findings about nodes and their uplinks."""

from mesh.core.findings import Code

WRONG_ENDPOINT = Code(
    "D602",
    "The first IPv4 address of the Node object is not the one at which tunnels to this node end, "
    "since no device of the host has it. Other nodes tunnel to the wrong address.",
    "Correct status.addresses of the Node object, or give the host that address.",
)
NO_OBJECT = Code(
    "D603",
    "The node of an agent has no Node object. It is no gateway, announces nothing, and new pods "
    "get no addresses. Two minutes after the object has gone other nodes cannot reach the node.",
    "Create the Node object, or correct the node's name in the agent's configuration.",
)
UPLINK_CHANGED = Code(
    "D607",
    "The uplink is away, or has another index, MTU or address than the datapath was loaded with. "
    "The datapath goes on with the former ones.",
    "Give the uplink its device and address back. A change that stands is followed within some "
    "seconds; where the finding stays, the agent's log says why.",
)
NO_WAY = Code(
    "D633",
    "The kernel of a node has no route to the tunnel endpoint of another one. Packets for its pods "
    "go to the next hop that it had before, or are dropped.",
    "Add a route to the other node, or mend the routing daemon. `ip route get ADDRESS` shows what "
    "the kernel knows.",
)
NO_POD_CIDR = Code(
    "M228",
    "A Node object has no spec.podCIDRs, and the controller's configuration has no pools of pod "
    "CIDRs. The pods of the node get no addresses.",
    "Let the cluster hand out pod CIDRs (--allocate-node-cidrs of kube-controller-manager), or "
    "give the controller pools.podCIDRs.",
)
STRICT_FILTER = Code(
    "D609",
    "The uplink takes only packets whose way back leads out of it (rp_filter 1). This host reaches "
    "pods of another cluster by the overlay, and their answers come in by the uplink: the kernel "
    "drops them without a word.",
    "Set net.ipv4.conf.UPLINK.rp_filter to 2. Where the fabric knows the pod CIDRs, give the other "
    "cluster's Node objects the label meshgate.io/hosts: native instead.",
)
OVERLAY_RESTORED = Code(
    "M165",
    "Another program has set the overlay's device down or deleted it, and the agent has restored "
    "it. In between, what the host sent to pods of other nodes was lost, and so was UDP that a "
    "sender had merged. The finding ends by itself after a minute.",
    "Find the program that does it (a network manager, a clean-up script), and let it leave "
    "mg_vxlan alone.",
)
OVERLAY_STOPPED = Code(
    "M240",
    "Other nodes of the cluster answer a ping, and no echo comes back from them through the "
    "overlay. The fabric stops the overlay's UDP port in one direction or both, or the other "
    "node has no datapath. Pods of these nodes and of this one do not reach each other.",
    "Let the fabric carry the overlay's UDP port between all nodes, both ways (firewalls, security "
    "groups, access lists of switches). Look whether an agent runs on the other nodes. The finding "
    "ends within seconds once an echo is answered.",
)
