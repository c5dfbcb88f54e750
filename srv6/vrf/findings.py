"""Codes of findings about VRFs."""

from mesh.core.findings import Code

DISTINGUISHER_TWICE = Code(
    "V520",
    "Two VRFs have one route distinguisher. The older VRF keeps it; the younger one is not used, "
    "and its pods send nothing to its destinations.",
    "Give one of them another routeDistinguisher, or auto.",
)
TARGET_TWICE = Code(
    "V521",
    "Two VRFs have one route target, so that each would get the other's routes. The older VRF "
    "keeps it; the younger one is not used, and its pods send nothing to its destinations.",
    "Give one of them other route targets.",
)
POD_OF_ANOTHER = Code(
    "V522",
    "A VRF selects a pod of another one. The older VRF keeps the pod.",
    "Change the selectors of one of the VRFs.",
)
NO_PEER = Code(
    "V523",
    "The peers of a VRF select no BGPPeer with a VPN family that advertises VRFs. No router "
    "hears of the VRF.",
    "Correct spec.peers, or the labels, families or advertise of the BGPPeer.",
)
OUTSIDE = Code(
    "V524",
    "The SID that a VRF names is no function of a locator of the cluster. The VRF gets other SIDs.",
    "Name a SID in a node's locator, with zeros behind its function.",
)
NO_POOL = Code(
    "V525",
    "A VRF needs SIDs, and the cluster has no locator pool of that name, or none that leaves room "
    "for functions. No packet comes into the VRF from other nodes.",
    "Correct spec.locatorPool, or pools.locators of the controllers' configuration.",
)
SID_TAKEN = Code(
    "V526",
    "The SID that a VRF names belongs to another VRF, or rests after it did. The VRF waits for it.",
    "Name another SID, or wait until it has rested (600 s).",
)
ADDRESS_TAKEN = Code(
    "V527",
    "A pod names a tenant address that another pod of its VRF has. It waits for the address.",
    "Correct the annotation meshgate.io/tenant-addresses of one of the pods.",
)
TWO_SIDS = Code(
    "V529",
    "The store and BGP have had different SIDs for one prefix of a VRF for more than 30 s. That of "
    "the store is used.",
    "Look at the speaker of the node that announces the prefix.",
)
ANOTHERS_SID = Code(
    "V530",
    "A router announces a prefix of a VRF with a SID of another VRF of this cluster. The prefix "
    "is not used.",
    "Look at the route targets of the router's VRF.",
)
UNKNOWN_SID = Code(
    "V531",
    "A route has a SID in a locator of this cluster that no VRF has. The prefix is not used.",
    "Look at who announces the route: it is stale, or claims what is not its own.",
)
TOO_MANY = Code(
    "V532",
    "A router announces more prefixes of a VRF than maxPrefixes. Those beyond are not used.",
    "Raise spec.maxPrefixes, or filter on the router.",
)
NOT_KEPT = Code(
    "V533",
    "The numbers and addresses of VRFs cannot be written to the state directory. An agent that "
    "starts without its store then holds back what pods of VRFs send.",
    "Make room on the disk, or mend the rights of the directory.",
)
NOT_IMPORTED = Code(
    "V534",
    "The speaker does not know the agent's maps, so routes of routers are not used in VRFs.",
    "Give the speaker `bpffs` in its configuration.",
)
ONE_NUMBER = Code(
    "V535",
    "The paths to two SIDs got one number by chance. What would take either is dropped, because "
    "they may lead into two VRFs.",
    "Give the VRF of one of the SIDs another one with spec.sid.",
)
NO_SOURCE = Code(
    "V536",
    "A node with pods of VRFs has no IPv6 address, which would be the outer source of what they "
    "send. They reach pods of the same node only.",
    "Give the node an IPv6 address.",
)
UNEXPLAINED = Code(
    "V549",
    "A VRF has no number, and no controller says why. Its pods send nothing to its destinations.",
    "Look at the findings of the VRF, and at the controller of the cluster.",
)
