"""Which drops are findings: for each reason the origin, the rate and the meaning. Pure.

A drop that a stranger can cause alone is no finding, whatever its rate: packets from outside are
never counted for a rule, except where ``outside`` says that something of ours must be wrong first.
A rate is a number of packets in a minute. A finding begins when the last minute had ``begins``
packets, and ends when it had less than half of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mesh.core.model import Finding
from mesh.health.findings import DROPPING
from mesh.health.history import Dropped

#: Packets in a minute: a path does not work; a sender makes a mistake; it is usual up to here.
BROKEN, WRONG, USUAL = 10, 60, 6000
#: Whose packets, in words.
PLACES = {
    "pod": "of pods of this node",
    "overlay": "that other nodes have sent",
    "outside": "from outside of the mesh",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """``pod``, ``overlay`` and ``outside`` are the rates at which a finding begins; None: never.

    ``means`` is the consequence, ``mend`` the remedy.
    """

    means: str
    mend: str
    pod: int | None = BROKEN
    overlay: int | None = BROKEN
    outside: int | None = None

    def begins(self, place: str) -> int | None:
        """The rate of a place."""
        return {"pod": self.pod, "overlay": self.overlay, "outside": self.outside}[place]


def _sent_wrongly(what: str, mend: str) -> Rule:
    return Rule(f"{what} and go nowhere", mend, pod=WRONG, overlay=WRONG)


def _line(means: str) -> Rule:
    """A line of status, never a finding: a stranger can cause it alone."""
    return Rule(means, "nothing", pod=None, overlay=None)


_SENDER = "look at the sender in `meshgate flow list --verdict DROPPED`"
_REPORT = "report it with the agent's log and `meshgate drop list`"
#: By the name in ``enum drop_reason``.
RULES: Final[Mapping[str, Rule]] = {
    "DROP_INVALID_SOURCE_IP": Rule(
        "they carry a source that is not their sender's: the sender uses an address that it was "
        "not given, or our row of the address is out of date",
        f"{_SENDER}, and compare with `meshgate pod list`",
        pod=WRONG,
        overlay=WRONG,
    ),
    "DROP_INVALID_PACKET": _sent_wrongly("they are malformed", _SENDER),
    "DROP_CT_TRUNCATED": _sent_wrongly(
        "they end before their TCP, UDP or ICMP header does", _SENDER
    ),
    "DROP_FRAGMENTATION_NEEDED": Rule(
        "they are too big for the way and must not be fragmented; their senders do not believe the "
        "ICMP errors, so large transfers hang",
        "let ICMP too-big through to the senders, or give them the MTU of the way",
        pod=USUAL,
        overlay=USUAL,
    ),
    "DROP_UNSUPPORTED_L3_PROTOCOL": _sent_wrongly("they are neither IPv4 nor IPv6", _SENDER),
    "DROP_MISSED_TAIL_CALL": Rule(
        "a program was not there when it was needed: connections hang",
        f"restart the agent; {_REPORT}",
        outside=BROKEN,
    ),
    "DROP_WRITE_ERROR": Rule(
        "they could not be rewritten: connections hang",
        _REPORT,
        outside=BROKEN,
    ),
    "DROP_UNKNOWN_L4_PROTOCOL": _sent_wrongly("their protocol is unknown here", _SENDER),
    "DROP_UNKNOWN_L3_TARGET": Rule(
        "they are for a pod or host that is not here: it has gone, or the sender's rows are out of "
        "date",
        "compare `meshgate address list` on both nodes; if the address is right, restart the agent "
        "of the sender",
        pod=WRONG,
        overlay=WRONG,
    ),
    "DROP_CT_MAP_INSERTION_FAILED": Rule(
        "the connection table is full, or the sender has its share of it: new connections fail",
        "give mg_ct_v4 and mg_ct_v6 more entries in `limits` of the agent's configuration, or find "
        "the pod that opens them (`meshgate flow list`)",
        outside=BROKEN,
    ),
    "DROP_INVALID_IPV6_EXTENSION": _sent_wrongly(
        "their IPv6 extension headers are refused", _SENDER
    ),
    "DROP_NO_SERVICE": _sent_wrongly(
        "they are for a port that the service does not have, or for the service's address itself, "
        "as a ping is",
        "ask for a port of the service (`meshgate service list`); at the point TO_UPLINK a process "
        "of this host asked, by a raw socket or as a ping",
    ),
    "DROP_NO_TUNNEL_ENDPOINT": Rule(
        "the node behind their destination has no next hop: it cannot be reached from here",
        "look at the routes of this host to the other node (`ip route get`), and at the other's "
        "Node object",
        outside=BROKEN,
    ),
    "DROP_NO_NAT_MAPPING": Rule(
        "there was no room for their translation: new connections out of the mesh fail, DNS first",
        "give mg_nat_v4 and mg_nat_v6 more entries in `limits` of the agent's configuration",
        overlay=None,  # a stranger who sends to the egress address
    ),
    "DROP_NAT_UNSUPPORTED_PROTOCOL": Rule(
        "an egress policy or masquerade covers them and their protocol cannot be translated: they "
        "never leave",
        "exclude the destination from the policy or by nonMasqueradeCIDRs, or use TCP, UDP or ping",
    ),
    "DROP_FIB_LOOKUP_FAILED": Rule(
        "this host has no route to their destination: packets that leave through it do not arrive",
        "add the route or the default route (`ip route get DESTINATION`)",
    ),
    "DROP_INVALID_IDENTITY": Rule(
        "they carry an identity that their sender may not give: they are forged, or the sender's "
        "cluster has another id than its contract says",
        "compare the cluster's id in `meshgate cluster list` with its configuration",
        pod=None,
        overlay=WRONG,
    ),
    "DROP_UNKNOWN_SENDER": _line("an overlay packet from an address that is no node's"),
    "DROP_FRAGMENT_NOT_FOUND": Rule(
        "they are later fragments without a first one: datagrams larger than the MTU are lost",
        "give the senders the MTU of the way, so that nothing is fragmented",
        pod=WRONG,
        overlay=WRONG,
    ),
    "DROP_INVALID_CLUSTER_ID": Rule(
        "they carry an identity of another cluster than their sender's: two clusters share an id, "
        "or they are forged",
        "give each cluster an id of its own",
        pod=None,
        overlay=WRONG,
    ),
    "DROP_NO_EGRESS_GATEWAY": Rule(
        "an egress policy covers them and its address has no gateway: nothing leaves the mesh",
        "label a node that `gateways.nodeSelector` of the policy selects, or start the agent of "
        "the gateway; `meshgate egress list` shows it",
    ),
    "DROP_TTL_EXCEEDED": Rule(
        "their TTL ran out, more often than a traceroute explains: routes run in a circle",
        "look at the routes of the gateway to the destinations",
        pod=USUAL,
        overlay=USUAL,
    ),
    "DROP_RATE_LIMITED": Rule(
        "the pod opens more connections in a second than its egress policy lets it",
        "find the pod in `meshgate flow list --verdict DROPPED`, or raise `quota.newPerSecond` of "
        "the policy",
        pod=WRONG,
    ),
    "DROP_PORT_QUOTA": Rule(
        "the pod has all ports of the egress address that it may have, and all are in use towards "
        "their remote: its new connections there fail",
        "find the pod in `meshgate flow list --verdict DROPPED`, or raise `quota.ports` of the "
        "policy; 1,024 ports are the most that a pod can have of an address",
    ),
    "DROP_NO_RUN": Rule(
        "no ports of the egress address are free for the pod in this node's blocks: its new "
        "connections out of the mesh fail, DNS first",
        "look whether the address has blocks left (`meshgate block list`), whether the node may "
        "have more (`blocksPerNode` of the egress section), and whether its log of ports fills "
        "(finding M243); give the policy more addresses, or pods a quota of ports",
    ),
    "DROP_ENDPOINT_NOT_READY": Rule(
        "the pod has no row in the datapath yet: it has no network",
        "look at the pod in `meshgate pod list` and at the findings of its node",
        pod=WRONG,
    ),
    "DROP_NO_EGRESS_IP": Rule(
        "an egress policy covers them and has no address of their family: they never leave",
        "give the policy an address of the family, or remove the destinations of it",
    ),
    "DROP_BLOCK_NOT_OWNED": Rule(
        "the sender does not own the port block of their source: its connections out of the mesh "
        "hang",
        "look whether the sender's agent reads etcd (`meshgate status`); blocks are in "
        "`meshgate block list`",
    ),
    "DROP_BLOCK_NO_OWNER": _line("a port of an egress address that belongs to no node"),
    "DROP_NO_BLOCK": Rule(
        "this node has no port block of the egress address: covered pods reach nothing outside",
        "look whether a controller leads and whether the address has blocks left "
        "(`meshgate block list`)",
        pod=30,
    ),
    "DROP_MID_STREAM": Rule(
        "they go on with TCP connections that have no translation any more: those hang until they "
        "time out",
        "restart the clients whose connections hang",
        pod=WRONG,
    ),
    "DROP_NOT_FROM_GATEWAY": Rule(
        "the sender is no gateway of the egress address: answers from outside are lost",
        "look at the policy's gateway in `meshgate egress list` on both nodes",
        pod=None,
        overlay=WRONG,
    ),
    "DROP_IP_OPTIONS": _sent_wrongly("they carry IPv4 options that are refused", _SENDER),
    "DROP_CONNECTION_ENDED": Rule(
        "they belong to TCP connections that a change of egress policy has ended; both ends are "
        "reset, and a program that opens them again is translated",
        "nothing, if the policy was meant to change; else compare `meshgate egress list` with it",
        pod=None,
        overlay=None,
    ),
    "DROP_OVERLAY_PORT": Rule(
        "they are for the overlay port of a node and are not the overlay's: a program sends tunnel "
        "packets in the name of a node, or another VXLAN uses the port",
        f"{_SENDER}: a pod, or point TO_UPLINK, a socket of this host or a pod that it masquerades",
        overlay=None,  # of anybody, in IPv6
    ),
    "DROP_NEIGHBOUR_CLAIM": Rule(
        "they are ARP or neighbour discovery of pods about addresses that are not theirs",
        _SENDER,
        pod=WRONG,
        overlay=None,
    ),
    "DROP_ROUTER_TALK": Rule(
        "they are messages of pods that only routers send (redirects, router advertisements, MLD "
        "queries)",
        _SENDER,
        overlay=None,
    ),
    "DROP_OWN_SENDER": Rule(
        "they came by the uplink with this node's own address as their outer source: the fabric "
        "takes forged sources, so any host that can send into it can be any node",
        "let the fabric check the source addresses of nodes (docs/fabric.md)",
        pod=None,
    ),
    "DROP_MASQUERADE_FULL": Rule(
        "all ports of the node's address that stand for pods are in use towards their remote: new "
        "connections of pods to it fail",
        "give the section masquerade more `ports`, or spread the pods over more nodes; "
        "`meshgate flow list` shows which pods ask",
    ),
    "DROP_BFD_REFUSED": Rule(
        "they say that they are a router's BFD, and the session refuses them (B252 says why)",
        "act on finding B252, or look who forges them",
        pod=None,
        overlay=None,
    ),
    "DROP_NO_VRF_ROUTE": Rule(
        "the VRF of their pod has no usable way to the destination",
        "look at the destination in `meshgate vrf show VRF` and at the sessions in `meshgate peer "
        "list`",
    ),
    "DROP_VRF_SOURCE": Rule(
        "a pod that has tenant addresses sends to its VRF from its cluster address: programs there "
        "bind to the wrong address, or the pod's routes are gone",
        "let the program bind to the tenant address, or to none; `ip route` in the pod shows the "
        "VRF's destinations",
        pod=30,
    ),
    "DROP_COVERED_IN_VRF": Rule(
        "an egress policy covers their destination, and they would leave by a route that a router "
        "has told the VRF of their pod, without the egress address",
        "add the network to the VRF's `destinations` if it is the VRF's, or exclude the pod or the "
        "network from the policy",
    ),
    "DROP_SRV6_DOMAIN": _line("for a SID, from outside the SR domain, or from a pod"),
    "DROP_NO_SID": _line("for a locator of this node, but for none of its SIDs"),
    "DROP_SEGMENTS": _line("an SRv6 packet whose routing header is broken or asks for a check"),
    "DROP_SID_INNER": _line("an SRv6 packet with an inner packet that its SID does not take"),
    "DROP_ICMP_CHECKSUM": _sent_wrongly(
        "they are ICMP errors with a wrong checksum, or quote a packet with one", _SENDER
    ),
    "DROP_NOT_ACKNOWLEDGED": Rule(
        "new connections of a policy whose egress addresses firewalls have not fetched yet (M234)",
        "let the firewalls fetch their feed, or `meshgate egress activate ADDRESS --without "
        "FIREWALL`; `meshgate feed list` shows who has fetched",
    ),
    "DROP_EGRESS_NO_ROOM": Rule(
        "the egress table has no room for their policy: these pods send nothing out of the mesh",
        "give mg_egress more entries in `limits` of the agent's configuration",
    ),
}
#: A reason that has no rule yet.
UNRULED = Rule("nothing is known about this reason here", _REPORT, pod=WRONG, overlay=WRONG)

#: Name of a reason, and a place.
Alarm = tuple[str, str]


def judged(before: frozenset[Alarm], lately: Mapping[str, Dropped]) -> frozenset[Alarm]:
    """The alarms that stand, of those that stood and the packets of the last minute."""
    return frozenset(_standing(before, lately))


def _standing(before: frozenset[Alarm], lately: Mapping[str, Dropped]) -> Iterator[Alarm]:
    for name, dropped in lately.items():
        for place in PLACES:
            begins = RULES.get(name, UNRULED).begins(place)
            packets: int = getattr(dropped, place)
            if begins is None:
                continue
            if packets >= begins or ((name, place) in before and 2 * packets >= begins):
                yield name, place


def findings(
    node: str,
    alarms: frozenset[Alarm],
    lately: Mapping[str, Dropped],
    texts: Mapping[str, str],
) -> Iterator[Finding]:
    """One finding for each alarm; ``texts`` are the reasons as ``drop list`` prints them."""
    for name, place in sorted(alarms):
        rule = RULES.get(name, UNRULED)
        packets = getattr(lately.get(name, Dropped()), place)
        text = (
            f"{packets} packets {PLACES[place]} were dropped in the last minute "
            f"({texts.get(name, name)}): {rule.means}; {rule.mend}"
        )
        yield Finding(DROPPING, f"{node}/agent", f"{name} {place}", text, (f"node/{node}",))
