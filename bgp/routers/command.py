"""``meshgate bgp config``: the router's side of a BGPPeer, from objects, without any process.

The objects are those that a process of this host reads: its configuration names the folder or the
API server. Several clusters may peer with one router; then the router's side has the nodes of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from bgp.peer import BGPPeer
    from bgp.routers.side import Neighbor

_FOR = ("frr", "bird", "gobgp", "iosxr", "junos")


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bgp`` and its verb."""
    verbs = commands.add_parser("bgp", help="what routers need").add_subparsers(
        metavar="VERB", required=True
    )
    text = "the router's side of a BGPPeer, as the router's configuration takes it"
    verb = verbs.add_parser("config", help=text, description=text)
    verb.add_argument("--for", required=True, choices=_FOR, dest="router", metavar="|".join(_FOR))
    verb.add_argument("peer", metavar="PEER", help="name of the BGPPeer")
    text = "a speaker's configuration; without it all of the run directory"
    verb.add_argument("--config", type=Path, action="append", metavar="FILE", help=text)
    text = "the router's BGP identifier; by default its IPv4 address"
    verb.add_argument("--router-id", type=IPv4Address, metavar="ADDRESS", help=text)
    verb.set_defaults(run=_config)


def _config(parsed: argparse.Namespace) -> int:
    from bgp.routers.kinds import ROUTERS

    try:
        peers, neighbors = _side(parsed.peer, parsed.config)
        asn, router_id = router_of(peers, parsed.router_id)
        sys.stdout.write(ROUTERS[parsed.router](asn, router_id, neighbors))
    except (OSError, ValueError, TimeoutError) as error:
        print(f"meshgate: no configuration for {parsed.peer}: {error}", file=sys.stderr)
        return 1
    return 0


def router_of(
    peers: Iterable[BGPPeer], given: IPv4Address | None
) -> tuple[int, IPv4Address | None]:
    """The router's ASN and identifier.

    Raises:
        ValueError: the clusters have different numbers or addresses for it.

    """
    found = {(peer.asn, peer.address) for peer in peers}
    if len(found) > 1:
        said = ", ".join(sorted(f"{address} with ASN {asn}" for asn, address in found))
        raise ValueError(f"the clusters mean different routers: {said}")
    ((asn, address),) = found
    own = address if isinstance(address, IPv4Address) else None
    return asn, given or own


def password_of(peer: BGPPeer) -> str:
    """The password of the file that the object names; another text where this host has none."""
    from bgp.routers.side import UNKNOWN_PASSWORD

    if peer.password is None or not peer.password.file:
        return UNKNOWN_PASSWORD
    try:
        return Path(peer.password.file).read_text(encoding="utf-8").strip() or UNKNOWN_PASSWORD
    except (OSError, UnicodeDecodeError):
        return UNKNOWN_PASSWORD


def _side(name: str, paths: Iterable[Path] | None) -> tuple[list[BGPPeer], list[Neighbor]]:
    """The BGPPeers of that name in all clusters, and the nodes that they select."""
    from bgp.cilium.peers import Peers
    from bgp.cilium.rows import NOUNS
    from bgp.peer import PEERS
    from bgp.routers.nodes import neighbors
    from mesh.core.reconcile import Loop
    from mesh.objects.kubernetes import NODES

    peers: list[BGPPeer] = []
    found: list[Neighbor] = []
    # What reads objects lies above this room, so it is called by its name.
    clusters = import_module("mesh.once").of_clusters((NODES, PEERS, *NOUNS), paths)
    words = import_module("mesh.objects.kinds").CILIUM_WORDS
    for objects in clusters.values():
        loop = Loop()
        Peers(objects, words).derive(loop)
        loop.derive_all()
        if (peer := objects[PEERS].rows.get(name)) is not None:
            peers.append(peer)
            found += neighbors(peer, objects[NODES].rows.values(), password_of(peer))
    if not peers:
        raise ValueError(f"no BGPPeer of that name in {', '.join(clusters)}")
    return peers, found
