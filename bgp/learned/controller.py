"""Learned networks in a controller: their sets of labels get identities, as those of pods do.

    what speakers say, rules of BGPPeers -> texts that rules can have made -> identities wanted

A speaker's certificate lets it write any text below ``learned/<node>/``, and identities are never
given back (D20). So a text counts only when import rules of the cluster's BGPPeers name each label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bgp.learned.findings import UNDECLARED
from bgp.learned.telling import MOST_SETS, is_made, learned_prefix
from bgp.peer import PEERS, BGPPeer
from mesh.core.feature import ControllerFeature, Want
from mesh.core.groups import By
from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import NOUN, POOL
from mesh.objects.tables import Objects

Label = tuple[str, str]


class LearnedController(ControllerFeature):
    """``said`` are the label texts that the speaker of each node says."""

    def __init__(self, cluster: str, objects: Objects, said: Table[str, tuple[str, ...]]) -> None:
        self._cluster, self._peers, self._said = cluster, objects[PEERS], said
        self.wants = (Table[Want, bool]("identity of learned network wanted"),)
        self._declared: Table[Label, None] = Table("label of an import rule")

    def derive(self, loop: Loop) -> None:
        loop.group(self._declared, _declared, By(self._peers, labels_of))
        by_text = By(self._said, lambda _, texts: texts[:MOST_SETS])
        loop.group(self.wants[0], self._wanted, by_text, whole=[self._declared])

    def _wanted(self, text: str, said: Mapping[str, tuple[str, ...]]) -> dict[Want, bool]:
        made = bool(said) and is_made(self._cluster, text, self._declared.rows)
        return {Want(NOUN, POOL, text): True} if made else {}

    def findings(self) -> Iterable[Finding]:
        if not (self._declared.synced and self._said.synced):
            return
        for node, texts in self._said.rows.items():
            odd = [t for t in texts if not is_made(self._cluster, t, self._declared.rows)]
            if odd or len(texts) > MOST_SETS:
                text = f"{len(odd)} label sets that no import rule makes" if odd else ""
                text = text or f"{len(texts)} label sets, of which {MOST_SETS} count"
                place = f"{learned_prefix(self._cluster, node)}labels"
                yield Finding(UNDECLARED, place, "", text, (f"node/{node}",))


def labels_of(_: str, peer: BGPPeer) -> list[Label]:
    """The labels that the import rules of a BGPPeer name."""
    return [(key, value) for rule in peer.imports for _, key, value in rule.labels]


def _declared(label: Label, peers: Mapping[str, BGPPeer]) -> dict[Label, None]:
    return {label: None} if peers else {}
