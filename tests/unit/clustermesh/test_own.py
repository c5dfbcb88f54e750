"""The own cluster's subtree as tables: one for each noun of claims that is asked for."""

from __future__ import annotations

from clustermesh.store.claims import encode_number, number_key, numbers_prefix
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own
from mesh.core.model import Claim, ClaimKey

VRF, BLOCK = ClaimKey("vrf", "tenants", 7), ClaimKey("block", "192.0.2.1", 3)


def entry(key: ClaimKey, value: bytes, revision: int = 7) -> Entry:
    return Entry(number_key("east", key), value, revision, revision, 0)


def test_each_noun_has_its_tables_and_no_other_noun_is_a_claim() -> None:
    """A claim of one noun wakes nobody who reads another one."""
    own = Own("east")
    woken: list[str] = []
    for noun in ("vrf", "block"):
        own.claims_of(noun).held.listen(lambda noun=noun: woken.append(noun))
    foreign = entry(ClaimKey("locator", "p", 1), b"{")
    own.take(Batch(7, [entry(VRF, encode_number("blue")), foreign], page=True))
    assert own.claims["vrf"].held.rows == {VRF: Claim("vrf", "tenants", 7, "blue", 7)}
    assert (woken, own.findings) == (["vrf"], {})
    assert not own.is_synced
    own.synced()
    assert own.is_synced
    assert all(both.held.synced and both.resting.synced for both in own.claims.values())


def test_a_released_claim_rests_until_its_number_is_claimed_or_gone() -> None:
    own = Own("east")
    tables = own.claims_of("block")
    claims, resting = tables.held, tables.resting
    own.take(Batch(7, [entry(BLOCK, encode_number("n1/0"))]))
    own.take(Batch(8, [entry(BLOCK, encode_number("n1/0", released=100), 8)]))
    assert (claims.rows, resting.rows[BLOCK].owner) == ({}, "n1/0")
    own.take(Batch(9, [entry(BLOCK, encode_number("n2/0"), 9)]))
    assert (claims.rows[BLOCK].owner, resting.rows) == ("n2/0", {})
    own.take(Batch(10, [entry(BLOCK, encode_number("n2/0", released=9), 10)]))
    own.take(Batch(11, [], [number_key("east", BLOCK)]))
    assert (claims.rows, resting.rows) == ({}, {})


def test_a_number_that_cannot_be_read_is_a_finding_and_changes_nothing_else() -> None:
    own = Own("east")
    own.claims_of("block")
    own.take(Batch(7, [entry(BLOCK, encode_number("n1/0"))]))
    own.take(Batch(8, [entry(BLOCK, b"{", 8)]))
    assert [finding.code for finding in own.findings.values()] == ["M141"]
    assert own.claims["block"].held.rows[BLOCK].owner == "n1/0"


def test_the_numbers_of_a_pool_have_a_prefix_without_its_owners() -> None:
    prefix = numbers_prefix("east", "block", "192.0.2.1")
    assert number_key("east", BLOCK) == f"{prefix}3"


def test_a_node_follows_what_its_features_have_asked_for() -> None:
    own = Own("east")
    own.claims_of("block")
    own.claims_of("identity", pool="labels")
    east = "meshgate/v1/east/"
    assert own.needed == [
        f"{east}config", f"{east}overlay", f"{east}synced", f"{east}forgotten/",
        f"{east}apiserver/",
        f"{east}pod/", f"{east}confirmed/", f"{east}block/", f"{east}identity/labels/number/",
    ]  # fmt: skip


def test_api_servers_that_an_operator_has_accepted_are_known() -> None:
    own = Own("east")
    key = "meshgate/v1/east/apiserver/uid-2"
    own.take(Batch(5, [Entry(key, b"{}", 5, 5, 0)]))
    assert (set(own.api_servers.rows), own.findings) == ({"uid-2"}, {})
    own.take(Batch(6, (), [key]))
    assert not own.api_servers.rows


def test_the_port_of_the_own_overlay_is_what_its_leader_has_put() -> None:
    own, key = Own("east"), "meshgate/v1/east/overlay"
    own.take(Batch(5, [Entry(key, b'{"port":8473}', 5, 5, 0)]))
    assert own.ports.rows == {"east": 8473}
    own.take(Batch(6, [Entry(key, b'{"port":70000}', 6, 5, 0)]))
    assert (own.ports.rows, set(own.findings)) == ({"east": 8473}, {key})
    own.take(Batch(7, (), [key]))
    assert (own.ports.rows, own.findings) == ({}, {})


def test_forgotten_clusters_and_requests_are_kept_apart() -> None:
    own = Own("east")
    prefix = "meshgate/v1/east/"
    keys = [f"{prefix}forgotten/west", f"{prefix}forget/north"]
    own.take(Batch(5, [Entry(key, b"{}", 5, 5, 0) for key in keys]))
    assert (set(own.forgotten.rows), set(own.to_forget.rows)) == ({"west"}, {"north"})
    own.take(Batch(6, (), keys))
    assert (own.forgotten.rows, own.to_forget.rows, own.findings) == ({}, {}, {})
