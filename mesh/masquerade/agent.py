"""Masquerade on a node: its Node object and BGPPeers become the maps that ``masquerade.h`` reads.

    Node object, BGPPeers that announce its pod CIDRs -> masquerade -> mg_masquerade
    configuration                                     -> unmasked   -> mg_unmasked

A session of BGP that is down changes nothing: what is configured decides, or connections would
change their address with it. The row stays as long as the node stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from mesh.core.address import bits_before
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Finding, Network, Node, NodeKey
from mesh.core.reconcile import Loop
from mesh.core.table import Source, Table
from mesh.masquerade import maps as entries
from mesh.masquerade import rows
from mesh.masquerade.findings import NO_ADDRESS
from mesh.masquerade.layouts import DECLARED
from mesh.masquerade.rows import Masquerade
from mesh.masquerade.settings import MasqueradeSettings

WITHOUT_NETWORK = "the networks that do not fit see the node's address instead of the pods'"


class MasqueradeAgent(AgentFeature):
    """``announcing`` are the BGPPeers that announce the pod CIDRs of ``own``.

    ``standing`` has the nodes of the cluster that stand, ``node`` all with their pod CIDRs.
    """

    layouts = DECLARED

    def __init__(
        self,
        own: NodeKey,
        settings: MasqueradeSettings | None,
        standing: Table[NodeKey, Node],
        node: Table[NodeKey, Node],
        announcing: Table[str, None],
    ) -> None:
        self._own, self._settings = own, settings
        self._standing, self._node, self._announcing = standing, node, announcing
        #: By family.
        self.masquerade: Table[int, Masquerade] = Table("masquerade")
        self.unmasked: Table[Network, bool] = Table("network without masquerade")
        networks = settings.non_masquerade_cidrs if settings else ()
        self.unmasked.replace(dict.fromkeys(networks, True))

    def settings(self) -> Mapping[str, object]:
        return {"masquerade": int(self._settings is not None and self._settings.mode != "off")}

    def derive(self, loop: Loop) -> None:
        inputs: list[Source] = [self._standing, self._announcing]
        loop.derive(inputs, self._make, name="masquerade")

    def _make(self) -> None:
        me = self._standing.rows.get(self._own)
        found = rows.masquerades(self._settings, me, self._announcing.rows) if me else {}
        self.masquerade.replace(found)

    def apply(self, loop: Loop, maps: Maps) -> None:
        target = maps.rows(
            entries.MASQUERADE_MAP, entries.encode_masquerade, entries.decode_masquerade
        )
        loop.apply(self.masquerade, target, capacity=maps.capacity(entries.MASQUERADE_MAP))
        before = bits_before(maps.struct("cidr_key"))
        encode = partial(entries.encode_network, before=before)
        decode = partial(entries.decode_network, before=before)
        loop.apply(
            self.unmasked,
            maps.rows(entries.UNMASKED_MAP, encode, decode),
            capacity=maps.capacity(entries.UNMASKED_MAP),
            meaning=WITHOUT_NETWORK,
        )

    def ports(self) -> Mapping[IP, int]:
        """How many ports of each address stand for pods."""
        return {row.address: len(row.ports) for row in self.masquerade.rows.values()}

    def findings(self) -> Iterable[Finding]:
        me = self._node.rows.get(self._own)
        on = self._settings is not None and self._settings.mode != "off"
        if not on or me is None or not self.masquerade.synced:
            return
        for family in rows.families_without(self.masquerade.rows, me.pod_cidrs):
            text = f"pods of this node have IPv{family} addresses, and the object has no InternalIP"
            text += f" of IPv{family}: what they send to the world by IPv{family} carries their own"
            text += " addresses and is not answered; add the address to the node and its object"
            place = f"Node/{self._own.name}"
            yield Finding(NO_ADDRESS, place, "status.addresses", text, (f"node/{self._own.name}",))
