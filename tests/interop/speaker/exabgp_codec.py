"""ExaBGP 5.0 as a codec without a session: a second opinion on bytes; it writes the golden ones.

Usage: ``python -m tests.interop.speaker.exabgp_codec`` rewrites tests/unit/bgp/golden.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exabgp.environment import getenv

getenv()  # other modules read it when they are imported

from exabgp.bgp.message.action import Action  # noqa: E402
from exabgp.bgp.message.direction import Direction  # noqa: E402
from exabgp.bgp.message.open.asn import ASN  # noqa: E402
from exabgp.bgp.message.open.capability import Negotiated  # noqa: E402
from exabgp.bgp.message.update import Update  # noqa: E402
from exabgp.bgp.neighbor import Neighbor  # noqa: E402
from exabgp.configuration.configuration import Configuration  # noqa: E402
from exabgp.logger import log  # noqa: E402
from exabgp.protocol.family import AFI, SAFI  # noqa: E402
from exabgp.protocol.ip import IP  # noqa: E402
from exabgp.reactor.api import API  # noqa: E402

from bgp.wire.update import decode  # noqa: E402
from tests.unit.bgp.golden import GOLDEN, in_json  # noqa: E402

_FAMILIES = [(afi, safi) for afi in (AFI.ipv4, AFI.ipv6) for safi in (SAFI.unicast, SAFI.mpls_vpn)]
_HEADER = 19
LOCAL = 65001
COMMUNITIES = "community [ 65001:100 no-export ] large-community [ 65001:1:2 4200000000:1:2 ]"
VPN = "rd 65001:1 label 3"
OTHER = "rd 10.99.0.1:7 label 4096"
SID = "bgp-prefix-sid-srv6 ( l3-service fcbb:bb00:1:1:: 0x0013 [32,16,16,0,0,0] )"
OPAQUE = "bgp-prefix-sid-srv6 ( l3-service fcbb:bb00:5:: 0xffff [40,24,16,0,16,64] )"
TARGETS = "extended-community [ 0x0002fde900000064 0x01020a6300010005 ]"
#: Commands, and the AS of the router to which they go.
COMMANDS = [
    ("announce attributes next-hop 10.99.0.11 nlri 10.4.1.0/24 10.4.2.0/25 0.0.0.0/0", 65002),
    (f"announce attributes next-hop 10.99.0.11 {COMMUNITIES} med 50 nlri 10.4.1.0/24", 65002),
    ("announce attributes next-hop 10.99.0.11 local-preference 200 nlri 10.4.1.0/24", LOCAL),
    ("announce attributes next-hop 10.99.0.11 as-path [ 65001 65001 ] nlri 10.4.1.0/24", 65002),
    ("announce attributes next-hop fd99::1 community [ 65001:666 ] nlri fcbb:bb00:1::/48", 65002),
    (f"announce attributes next-hop fd99::1 {TARGETS} {SID} {VPN} nlri 10.3.1.0/24", 65002),
    (f"announce attributes next-hop fd99::1 {TARGETS} {SID} {VPN} nlri fd01::/64", LOCAL),
    (f"announce attributes next-hop 10.99.0.11 {OPAQUE} {OTHER} nlri 10.3.2.0/24", 65002),
    ("withdraw attributes next-hop 10.99.0.11 nlri 10.4.1.0/24", 65002),
    ("withdraw attributes next-hop fd99::1 nlri fcbb:bb00:1::/48", 65002),
    (f"withdraw attributes next-hop fd99::1 {VPN} nlri 10.3.1.0/24", 65002),
]


def negotiated(peer: int = 65002) -> Any:
    neighbor = Neighbor()
    neighbor["local-as"], neighbor["peer-as"] = ASN(LOCAL), ASN(peer)
    neighbor["local-address"] = IP.create("10.99.0.11")
    neighbor["peer-address"] = IP.create("10.99.0.1")
    found = Negotiated(neighbor)
    found.families, found.asn4, found.msg_size = _FAMILIES, True, 4096
    found.nexthop = [(AFI.ipv4, safi, AFI.ipv6) for safi in (SAFI.unicast, SAFI.mpls_vpn)]
    found.local_as, found.peer_as = ASN(LOCAL), ASN(peer)
    return found


def wire(command: str, peer: int) -> bytes:
    """The body of the UPDATE that a command becomes."""
    log.silence()
    api = API.__new__(API)
    api.configuration = Configuration([])
    changes = api.api_attributes(command, [])
    for change in changes:
        said = command.startswith("announce")
        change.nlri.action = Action.ANNOUNCE if said else Action.WITHDRAW
    update = Update([change.nlri for change in changes], changes[0].attributes)
    (message,) = update.messages(negotiated(peer), include_withdraw=True)
    return bytes(message[_HEADER:])


def prefixes(body: bytes) -> list[tuple[str, str]]:
    """What ExaBGP reads in an UPDATE: prefix and next hop."""
    log.silence()
    update = Update.unpack_message(body, Direction.IN, negotiated())
    return [(nlri.cidr.prefix(), str(nlri.nexthop)) for nlri in update.nlris]


def main() -> None:
    rows = []
    for command, peer in COMMANDS:
        body = wire(command, peer)
        said = in_json(decode(body, external=peer != LOCAL))
        rows.append({"command": command, "peer": peer, "wire": body.hex(), "json": said})
    Path(GOLDEN).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
