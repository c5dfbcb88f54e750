"""Owners of egress addresses on layer 2, in the controller.

    pools, gateways of addresses, beats of nodes -> owners wanted -> claims (``claims.OWNER``)

Only the allocator makes an owner, so each take-over has a greater epoch. Whether a node is there is
judged by its beats and by what other nodes say of its answers (``layer2.chosen``); time passes in
looks, so a controller that has stood still itself takes nothing away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from gateway import claims, layer2
from gateway.findings import NO_OWNER
from gateway.pool import EgressPool
from gateway.witnesses import UNSURE_S, witnesses
from mesh.core.feature import Claimable, Want
from mesh.core.model import IP, Beat, Claim, ClaimKey, Finding, Node
from mesh.core.reconcile import Loop
from mesh.core.sources import ClaimTables
from mesh.core.table import Source, Table
from mesh.core.ticks import tick
from mesh.identity.addresses import tunnel_endpoint

log = logging.getLogger(__name__)


class Owners:
    """``wants`` are the owners; ``of_address`` the gateways of each address."""

    claim = Claimable(claims.OWNER, lambda _: claims.CARRIERS, released=True)

    def __init__(
        self,
        pools: Table[str, EgressPool],
        of_address: Table[IP, tuple[Node, ...]],
        beats: Table[str, Beat],
        owners: ClaimTables,
    ) -> None:
        self.wants: Table[Want, bool] = Table("owner wanted")
        self._pools, self._of_address, self._beats = pools, of_address, beats
        self._held, self._resting = owners.held, owners.resting
        #: Seconds since the last beat of each node, by looks; nodes that were heard.
        self._age_s: dict[str, float] = {}
        self._heard: dict[str, int] = {}
        #: Seconds until a node that did not answer, or was away, is a witness against others.
        self._unsure_s: dict[str, float] = {}
        self._alive: set[str] = set()
        #: Nodes whose word counts, by the node that does not answer them.
        self._witnesses: dict[str, list[str]] = {}

    def derive(self, loop: Loop) -> None:
        """Add the derivation: addresses on layer 2 are few."""
        inputs: list[Source] = [self._pools, self._of_address, self._held]
        loop.derive(inputs, self._judge, [self._beats], name="owners of layer 2")

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs as long as the process."""
        return (self._look_for_ever,)

    async def _look_for_ever(self) -> None:
        while True:
            await tick(layer2.LOOK_S)
            if self.wants.synced:
                self.look()

    def look(self) -> None:
        """Time has passed. Without an address on layer 2 nothing is judged by time."""
        if not self._on_layer2():
            return
        for node in self._age_s:
            self._age_s[node] += layer2.LOOK_S
        for node in self._unsure_s:
            self._unsure_s[node] -= layer2.LOOK_S
        self._judge()

    def owners(self) -> dict[IP, layer2.SegmentOwner]:
        """The owner of each address."""
        return owners(self._held.rows, self._resting.rows)

    def findings(self) -> Iterator[Finding]:
        """Addresses for which nobody speaks."""
        for address, gateways in self._on_layer2().items():
            if not self._alive.intersection(gateways):
                names = ", ".join(gateways)
                text = f"no gateway of {address} says that it is there ({names}): nobody answers"
                about = tuple(f"node/{name}" for name in gateways)
                yield Finding(NO_OWNER, f"egress address {address}", "", text, about)

    def _on_layer2(self) -> dict[IP, list[str]]:
        return on_layer2(self._pools.rows.values(), self._of_address.rows)

    def _judge(self) -> None:
        self._listen()
        self._alive = alive = self._answering()
        current = self.owners()
        held = claims_by_address(self._held.rows)
        wants = {}
        for address, gateways in self._on_layer2().items():
            owner = current.get(address)
            older = {c.owner for c in held.get(address, ()) if not owner or c.epoch < owner.epoch}
            known = owner.node if owner else ""
            node = layer2.chosen(address, gateways, known, alive, older)
            if node:
                wants[claims.owner_want(address, node)] = True
            if node != known:
                said = " ".join(self._witnesses.get(known, ())) or "nobody"
                text = "event=owner_wanted address=%s before=%s now=%s silent_to=%s"
                log.info(text, address, known, node, said)
        self.wants.replace(wants)

    def _listen(self) -> None:
        """Take in the beats that have come.

        Only gateways beat all the time; of others a beat is news, and none before says nothing.
        """
        steady = {name for names in self._on_layer2().values() for name in names}
        for node, beat in self._beats.rows.items():
            if self._heard.get(node) != beat.number:
                if node in steady and self._age_s.get(node, 0.0) > layer2.AWAY_S:
                    self._unsure_s[node] = UNSURE_S
                self._heard[node] = beat.number
                self._age_s[node] = 0.0
        for node in self._age_s.keys() - self._beats.rows.keys():
            del self._age_s[node]
            self._heard.pop(node, None)
            self._unsure_s.pop(node, None)

    def _answering(self) -> set[str]:
        """Nodes that say that they are there, and that answer.

        A node that comes back still says for a moment that the others do not answer.
        """
        there = {node for node, age in self._age_s.items() if age < layer2.STALE_S}
        names = self._names()
        silent_to: dict[str, set[str]] = {}
        for node in (one for one in there if self._unsure_s.get(one, 0.0) <= 0):
            for endpoint in self._beats.rows[node].silent:
                silent_to.setdefault(names.get(str(endpoint), ""), set()).add(node)
        down = layer2.down_nodes(silent_to)
        self._witnesses = {node: witnesses(node, silent_to) for node in down}
        self._unsure_s |= dict.fromkeys(down & self._age_s.keys(), UNSURE_S)
        return there - down

    def _names(self) -> dict[str, str]:
        """Gateways by tunnel endpoint."""
        nodes = (node for some in self._of_address.rows.values() for node in some)
        return {str(tunnel_endpoint(node)): node.name for node in nodes}


def on_layer2(
    pools: Iterable[EgressPool], gateways: Mapping[IP, tuple[Node, ...]]
) -> dict[IP, list[str]]:
    """The addresses that are announced on layer 2, with the names of their gateways."""
    cidrs = [cidr for pool in pools if pool.announce == "L2" for cidr in pool.cidrs]
    return {
        address: [node.name for node in nodes]
        for address, nodes in (gateways.items() if cidrs else ())
        if any(address in cidr for cidr in cidrs)
    }


def claims_by_address(rows: Mapping[ClaimKey, Claim]) -> dict[IP, list[Claim]]:
    """The claims of each address."""
    found: dict[IP, list[Claim]] = {}
    for key, claim in rows.items():
        address = layer2.address_of_claim(key)
        if address is not None:
            found.setdefault(address, []).append(claim)
    return found


def owners(
    held: Mapping[ClaimKey, Claim], resting: Mapping[ClaimKey, Claim]
) -> dict[IP, layer2.SegmentOwner]:
    """The owner of each address by the claims."""
    past = claims_by_address(resting)
    found = {}
    for address, some in claims_by_address(held).items():
        owner = layer2.owner_of(some, past.get(address, ()))
        if owner:
            found[address] = owner
    return found
