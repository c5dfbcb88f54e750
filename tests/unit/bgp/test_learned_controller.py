"""Label sets of learned networks in a controller: which get an identity."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from bgp.learned.controller import LearnedController
from bgp.learned.findings import UNDECLARED
from bgp.learned.telling import MOST_SETS
from bgp.peer import PEERS, BGPPeer, ImportRule
from mesh.core.feature import Want
from mesh.core.model import Selector
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import label_text, learned_labels, learned_text
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects

HQ = learned_text("east", (("site", "hq"),))
LABELS = (("65000:100", "site", "hq"), ("65000:7", "tier", "db"))
RULE = ImportRule(accept=True, labels=LABELS)
ROUTER = ip_address("10.99.0.1")
PEER = BGPPeer("router", Selector(), ROUTER, 65000, 65101, (), imports=(RULE,))


class World:
    def __init__(self) -> None:
        self.said: Table[str, tuple[str, ...]] = Table("said")
        self.loop, self.objects = Loop(), Objects(KINDS.nouns)
        self.it = LearnedController("east", self.objects, self.said)
        self.it.derive(self.loop)
        self.objects[PEERS].upsert({"router": PEER})
        self.objects[PEERS].mark_synced()
        self.said.mark_synced()

    def wants(self, **texts: tuple[str, ...]) -> set[str]:
        self.said.upsert(texts)
        self.loop.derive_all()
        assert all(want == Want("identity", "labels", want.owner) for want in self.it.wants[0].rows)
        return {want.owner for want in self.it.wants[0].rows}


def test_a_text_is_that_of_the_labels_and_of_the_cluster() -> None:
    assert HQ == "k8s:io.cilium.k8s.policy.cluster=east;bgp:site=hq;"
    assert learned_labels(HQ) == (("site", "hq"),)
    assert learned_labels(label_text([("site", "hq")])) == ()
    assert learned_text("east", (("a", "1"),)) == "bgp:a=1;k8s:io.cilium.k8s.policy.cluster=east;"


def test_label_sets_of_rules_get_an_identity() -> None:
    both = learned_text("east", (("site", "hq"), ("tier", "db")))
    assert World().wants(one=(HQ, both), two=(HQ,)) == {HQ, both}


def test_labels_that_no_rule_makes_get_none_and_are_a_finding() -> None:
    world = World()
    forged = (
        learned_text("east", (("site", "branch"),)),
        learned_text("west", (("site", "hq"),)),
        "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;",
        HQ + "k8s:app=web;",
    )
    assert world.wants(one=(HQ, *forged)) == {HQ}
    (finding,) = world.it.findings()
    assert (finding.code, finding.about) == (UNDECLARED, ("node/one",))
    assert finding.text == "4 label sets that no import rule makes"


def test_a_rule_that_goes_takes_its_wants_along() -> None:
    world = World()
    assert world.wants(one=(HQ,)) == {HQ}
    world.objects[PEERS].upsert({"router": replace(PEER, imports=())})
    world.loop.derive_all()
    assert not world.it.wants[0].rows


def test_a_node_has_a_bound() -> None:
    world = World()
    many = tuple((f"65000:{n}", "n", str(n)) for n in range(MOST_SETS + 9))
    peer = replace(PEER, imports=(ImportRule(accept=True, labels=many),))
    world.objects[PEERS].upsert({"router": peer})
    texts = tuple(learned_text("east", (("n", str(n)),)) for n in range(MOST_SETS + 9))
    assert world.wants(one=texts) == set(texts[:MOST_SETS])
    (finding,) = world.it.findings()
    assert finding.text == f"{MOST_SETS + 9} label sets, of which {MOST_SETS} count"
