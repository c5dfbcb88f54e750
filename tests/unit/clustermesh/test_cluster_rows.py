"""``meshgate cluster list`` and its section of ``meshgate status``: by contract, or provisional."""

from __future__ import annotations

from clustermesh.nouns import CLUSTER, cluster_row, contracts, own_row
from clustermesh.remote import wire
from mesh.core.noun import Row
from tests.unit.clustermesh.test_contracts import GIVEN, imports, replace
from tests.unit.clustermesh.test_imports import west


def row(*given: object) -> Row:
    it = imports(*given)  # type: ignore[arg-type]
    it.apply(west())
    return cluster_row("west", it.importers["west"])


def test_a_row_names_the_contract_or_says_that_there_is_none() -> None:
    assert row()["contract"] == "provisional"
    named = row(replace(GIVEN, name="to-west"))
    assert (named["contract"], named["state"]) == ("ClusterPeer/to-west", "accepted")
    own = own_row("east", 1, {}, synced=True)
    assert own["contract"] is None
    assert not CLUSTER.unknown([own, named])


def test_status_counts_contracts_and_provisional_clusters() -> None:
    own = own_row("east", 1, {}, synced=True)
    assert contracts([own, row(), row(GIVEN)]) == "Contracts: 1, provisional clusters: 1"
    assert contracts([own]) == "Contracts: 0, provisional clusters: 0"


def test_a_cluster_that_another_store_had_is_held_and_not_synced() -> None:
    it, read = imports(), (wire.NODES, wire.IDENTITIES, wire.ADDRESSES, wire.SERVICES)
    it.apply({**west(), **{wire.canary_key("west", prefix): b"now" for prefix in read}})
    fresh, held = (cluster_row("west", it.importers["west"], is_held=one) for one in (False, True))
    assert (fresh["state"], fresh["synced"]) == ("accepted", True)
    assert (held["state"], held["synced"]) == ("held", False)
    assert held["nodes"] == fresh["nodes"], "what it had stays"
