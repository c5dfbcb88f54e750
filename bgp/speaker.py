"""BGP in a speaker: its sessions and its routes as tables, from objects and what features offer.

    BGPPeers, the own Node, passwords -> peerings -> sessions of ExaBGP
    offers of features, peerings -> routes, as far as the guard lets them go -> routes of ExaBGP

Rule 1: a source that is away changes no announcement: tables are replaced only while all their
        sources are synced, else rows are only added: those that no missing fact can make wrong.
Rule 2: without the own Node object nothing is derived, and nothing changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from bgp import desired
from bgp import findings as codes
from bgp.desired import Peering
from bgp.exabgp.session import Session
from bgp.guard import AFTER_LIST_S, Guard
from bgp.networks import carrier
from bgp.passwords import SECRETS, Passwords, known
from bgp.peer import PEERS, BGPPeer, Password
from bgp.route import PeerKey, Route, RouteKey
from mesh.core.feature import Feature, Offer, SpeakerFeature
from mesh.core.groups import By
from mesh.core.model import IP, Finding, Labels, Node, NodeKey
from mesh.core.passes import Sliced
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.identity.selectors import matches
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects


def unmatched(peers: Iterable[BGPPeer], nodes: Iterable[Node]) -> list[Finding]:
    """BGPPeers that select no node of the cluster."""
    labels = [dict(node.labels) for node in nodes]
    text = "it selects no node, so nobody peers with the router"
    return [
        Finding(
            codes.NO_NODE,
            peer.origin or f"BGPPeer/{peer.name}",
            "spec.nodeSelector",
            text,
            (f"peer/{peer.address}",),
        )
        for peer in peers
        if not any(matches(peer.nodes, one) for one in labels)
    ]


class Anew(Sliced):
    """A derivation from whole tables that rests between its pieces; ``begin`` gives those.

    It begins anew when an input has changed meanwhile, with longer pieces each time.
    """

    def __init__(self, begin: Callable[[], Iterator[None]], inputs: Sequence[Source]) -> None:
        self._begin, self._inputs = begin, inputs
        self._seen: list[int] = []
        self._overtaken = 0

    @property
    def doublings(self) -> int:
        return self._overtaken

    def steps(self) -> Iterator[None]:
        self._overtaken = 0
        while True:
            self._seen = self._revisions()
            for _ in self._begin():
                yield
                if not self._seen:
                    break
            else:
                return

    def again(self) -> None:
        if self._seen and self._seen != self._revisions():
            self._seen = []
            self._overtaken += 1

    def _revisions(self) -> list[int]:
        return [source.revision for source in self._inputs]


class BGPSpeaker(Feature):
    """``features`` say what ``node`` may announce.

    ``absent_at`` is the monotonic time at which a list last lacked an object that had been there.
    """

    def __init__(
        self,
        node: NodeKey,
        objects: Objects,
        session: Session,
        features: Sequence[SpeakerFeature],
        absent_at: Callable[[], float],
        share: int,
        vpn: str = "",
    ) -> None:
        """``vpn`` is the word of ``advertise`` whose prefixes have VPN families."""
        #: BGPPeers that carry such prefixes, with their labels.
        self.carriers: Table[str, Labels] = Table("BGPPeer with a VPN family")
        self._vpn = vpn
        self.peerings: Table[PeerKey, Peering] = Table("peering")
        self.routes: Table[RouteKey, Route] = Table("route")
        self.guard = Guard(share)
        self.passwords = Passwords(objects[SECRETS], self._wanted)
        self._node, self._objects, self._session = node, objects, session
        self._features, self._absent_at = features, absent_at
        self._complete = False  # all sources were synced once, so the routes are ours to compare
        self._named = False  # likewise the objects that name sessions
        self._accepted: Table[PeerKey, float] = Table("accepted session")
        self._findings: dict[str, list[Finding]] = {}

    def derive(self, loop: Loop) -> None:
        loop.group(self.carriers, partial(carrier, word=self._vpn), By(self._objects[PEERS]))
        nodes, peers = self._objects[NODES], self._objects[PEERS]
        secrets = self._objects[SECRETS]
        loop.derive([peers, secrets], self._look)
        loop.derive([], self.derive_peerings, [nodes, peers, self.passwords.table, self._accepted])
        for feature in self._features:
            feature.derive(loop)
        sources: list[Source] = [nodes, *self._inputs(), self.peerings, self._accepted]
        loop.work("routes to announce", Anew(self.derive_routes, sources), [], sources)

    def findings(self) -> Iterable[Finding]:
        for findings in self._findings.values():
            yield from findings
        yield from self._held()

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return (self.passwords.follow,)

    def accept(self, peer: PeerKey, at: datetime) -> None:
        """An operator lets go what was held of a session before ``at``."""
        if self.guard.accept(peer, at.timestamp()):
            self._accepted.upsert({peer: at.timestamp()})

    def _inputs(self) -> list[Source]:
        return [source for feature in self._features for source in feature.inputs]

    def _wanted(self) -> Iterator[Password]:
        for peer in self._chosen():
            if peer.password is not None:
                yield peer.password

    def _chosen(self) -> list[BGPPeer]:
        node = self._objects[NODES].rows.get(self._node)
        labels = dict(node.labels) if node else {}
        peers = self._objects[PEERS].rows.values()
        return [peer for peer in peers if node and matches(peer.nodes, labels)]

    def _look(self) -> None:
        self.passwords.look()

    def derive_peerings(self) -> None:
        """Sessions of this node, from the BGPPeers that select it."""
        nodes, peers = self._objects[NODES], self._objects[PEERS]
        findings = self._findings["peering"] = unmatched(peers.rows.values(), nodes.rows.values())
        node = nodes.rows.get(self._node)
        if node is None or not self._has_router_id(node):
            return
        chosen, last = self._chosen(), self._session.memory.peerings
        keys = known(self.passwords.table.rows, last, chosen)
        rows, wrong = desired.peerings(node, chosen, keys)
        if not self.passwords.table.synced:  # it may stand in a Secret that is not known yet
            wrong = [one for one in wrong if one.code != codes.NO_PASSWORD]
        findings += wrong
        if self.passwords.table.synced:
            findings += desired.without_password(node, chosen, self.passwords.table.rows, keys)
        synced = nodes.synced and peers.synced
        if not synced:  # a peer that is not known yet may have the address
            rows = {address: row for address, row in rows.items() if last.get(address) == row}
        else:
            rows |= self._kept(last, rows)
        self.peerings.write(rows, complete=synced)

    def _kept(
        self, last: Mapping[PeerKey, Peering], rows: Mapping[PeerKey, Peering]
    ) -> dict[PeerKey, Peering]:
        """Sessions whose object a list lacks: they go on as they were, while the guard holds."""
        former = dict.fromkeys(last, 0)
        if last.keys() - rows.keys():
            for key in self._session.memory.routes:
                if key.peer in former:
                    former[key.peer] += 1
        listed = not self._named or time.monotonic() - self._absent_at() < AFTER_LIST_S
        self._named = True
        kept = self.guard.keep(former, rows.keys(), listed=listed, now=time.time())
        return {peer: last[peer] for peer in kept}

    def _has_router_id(self, node: Node) -> bool:
        """Without one in the configuration it is the node's address of now, until the end."""
        session = self._session
        if session.router_id is None:
            found = (one for one in node.addresses if isinstance(one, IPv4Address))
            session.router_id = next(found, None)
        return session.router_id is not None

    def derive_routes(self) -> Iterator[None]:
        """Routes of this node on each of its sessions, in pieces; the last one writes."""
        nodes = self._objects[NODES]
        node = nodes.rows.get(self._node)
        if node is None:
            self._findings["route"] = []
            if nodes.synced:  # the object has gone: others go on announcing what they have
                self._replace({})
            return
        found = desired.Wanted()
        yield from desired.derive(found, node, tuple(self.peerings.rows.values()), self.offers())
        synced = all(source.synced for source in (nodes, *self._inputs(), self.peerings))
        self._findings["route"] = found.findings if synced else []
        if synced:
            self._replace(found.rows)
        else:
            self.routes.upsert(found.rows)

    def offers(self) -> dict[str, list[Offer]]:
        """What the node may announce, by the words of ``advertise``."""
        node = self._objects[NODES].rows.get(self._node)
        if node is None:
            return {}
        return {feature.kind: list(feature.offers(node)) for feature in self._features}

    def hops(self) -> dict[int, IP | None]:
        """The node's addresses that are next hops, by IP version."""
        node = self._objects[NODES].rows.get(self._node)
        if node is None:
            return {}
        return {version: desired.own_address(node, version) for version in (4, 6)}

    def _replace(self, rows: Mapping[RouteKey, Route]) -> None:
        """Make these the routes; the guard compares with what was announced before."""
        former = self.routes.rows if self._complete else self._session.memory.routes
        listed = not self._complete or time.monotonic() - self._absent_at() < AFTER_LIST_S
        kept = self.guard.step(former, rows, self.peerings.rows, listed=listed, now=time.time())
        self._complete = True
        self.routes.replace({**rows, **kept})

    def _held(self) -> Iterator[Finding]:
        for peer in self.guard.sessions:
            text = (
                f"the session with {peer} and its routes are held: the object that names it is "
                f"absent from a list, and was not seen to be deleted"
            )
            about = (f"node/{self._node.name}", f"peer/{peer}")
            row = self.peerings.rows.get(peer)
            name = row.origin or f"BGPPeer/{row.name}" if row else f"session of {peer}"
            yield Finding(codes.HELD, name, f"session {peer} {self._node.name}", text, about)
        for peer, held in self.guard.held.items():
            peering = self.peerings.rows.get(peer)
            name = peering.name if peering else str(peer)
            text = (
                f"{len(held.routes)} of {held.of} routes to {peer} are held: the objects or claims "
                f"that they stand for are absent from a list, and none was seen to be deleted"
            )
            about = (f"node/{self._node.name}", f"peer/{peer}")
            origin = peering.origin if peering and peering.origin else f"BGPPeer/{name}"
            yield Finding(codes.HELD, origin, f"routes {peer} {self._node.name}", text, about)
