"""nftables masquerade as a translator: one rule, as on a router of Linux."""

from __future__ import annotations

from contextlib import ExitStack

from mesh.lab.conformance.bed import (
    EGRESS,
    EXCLUDED,
    GATE_MAC,
    HOP,
    HOST_MAC,
    OTHER,
    OTHER_MAC,
    PATH_MTU,
    POD,
    POD_MAC,
    SERVER,
    SERVER_MAC,
    WORLD,
    Bed,
    Namespaces,
    nodad,
    route_to_ends,
    run,
    silence,
)
from mesh.lab.conformance.ends import End

#: Kinds of state by the settings of the kernel that say how long it lives.
_TIMEOUTS = {
    "udp": "udp_timeout",
    "echo": "icmp_timeout",
    "stream": "udp_timeout_stream",
    "opening": "tcp_timeout_syn_sent",
    "established": "tcp_timeout_established",
    "closed": "tcp_timeout_close",
}


class Nftables(Bed):
    """Two pods behind a router with ``masquerade``."""

    name = "nftables"

    def __init__(self, stack: ExitStack) -> None:
        spaces = Namespaces(stack)
        pod, other, self._box, server = (spaces.make(n) for n in ("pod", "other", "box", "server"))
        spaces.link((pod, "eth0", POD_MAC), (self._box, "p1", HOST_MAC))
        spaces.link((other, "eth0", OTHER_MAC), (self._box, "p2", HOST_MAC))
        spaces.link((server, "eth0", SERVER_MAC), (self._box, "up", GATE_MAC), PATH_MTU)
        for place in (pod, other, server):
            silence(place, "eth0")
        self._addresses(spaces)
        self._rules()
        self.pod = End.open(pod, "eth0", HOST_MAC)
        self.other = End.open(other, "eth0", HOST_MAC)
        self.server = End.open(server, "eth0", GATE_MAC)
        for end in self.ends:
            stack.callback(end.close)

    def _addresses(self, spaces: Namespaces) -> None:
        box = self._box
        spaces.set(box, "net/ipv4/ip_forward", "1")
        spaces.set(box, "net/ipv6/conf/all/forwarding", "1")
        spaces.set(box, "net/ipv4/icmp_ratelimit", "0")
        spaces.set(box, "net/ipv6/icmp/ratelimit", "0")
        for family in (4, 6):
            words = ("ip", f"-{family}", "-n", box.name)
            bits = 32 if family == 4 else 128
            run(*words, "address", "add", f"{EGRESS[family]}/{bits}", "dev", "up", *nodad(family))
            run(*words, "route", "add", WORLD[family], "dev", "up", "src", EGRESS[family])
        route_to_ends(
            box,
            {
                "p1": (POD_MAC, {family: (POD[family],) for family in POD}),
                "p2": (OTHER_MAC, {family: (OTHER[family],) for family in OTHER}),
                "up": (
                    SERVER_MAC,
                    {f: (*SERVER[f], HOP[f], EXCLUDED[f]) for f in SERVER},
                ),
            },
        )

    def _rules(self, to: str = "") -> None:
        rules = ["table inet mgc", "delete table inet mgc", "table inet mgc {"]
        rules += ["chain out { type nat hook postrouting priority srcnat;"]
        for word, family in (("ip", 4), ("ip6", 6)):
            rules += [f"oifname up {word} daddr {EXCLUDED[family]} accept"]
        kinds = ("meta l4proto { tcp, udp }",) if to else ("",)
        rules += [f"oifname up {kind} masquerade {to}" for kind in kinds]
        rules += ["}", "}"]
        self._nft("\n".join(rules))

    def _nft(self, given: str) -> None:
        run("ip", "netns", "exec", self._box.name, "nft", "-f", "-", given=given + "\n")

    def lifetime(self, kind: str) -> int | None:
        key = f"net/netfilter/nf_conntrack_{_TIMEOUTS[kind]}"
        return int(Namespaces.get(self._box, key))

    def idle(self, seconds: int) -> bool:
        del seconds
        return False

    def narrow(self, ports: int | None) -> bool:
        self._rules(f"to :{1024}-{1023 + ports}" if ports else "")
        return True

    def quota(self, ports: int) -> bool:
        return not ports
