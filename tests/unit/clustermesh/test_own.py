"""The own cluster's subtree as tables: one for each noun of claims that is asked for."""

from __future__ import annotations

from ipaddress import ip_address

from clustermesh.store import own as store
from clustermesh.store.claims import encode_number, number_key, numbers_prefix
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own, listed_key, listed_value
from mesh.core.model import Claim, ClaimKey, Draining, Listed, PodRef

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
        f"{east}apiserver/", f"{east}evicted/",
        f"{east}pod/", f"{east}confirmed/", f"{east}feed/address/",
        f"{east}block/", f"{east}identity/labels/number/",
    ]  # fmt: skip


def test_what_agents_say_of_draining_addresses_is_read_and_nothing_else_below_status() -> None:
    own, said = Own("east"), "meshgate/v1/east/status/node/east-1/egress"
    value = b'{"ports":3,"epoch":9}'
    own.take(Batch(5, [Entry(f"{said}/{one}", value, 5, 5, 0) for one in ("198.51.100.1", "x")]))
    own.take(Batch(5, [Entry(f"{said}/2001:db8::1", b"3", 5, 5, 0)]))
    assert own.draining.rows == {("east-1", ip_address("198.51.100.1")): Draining(3, 9)}
    assert list(own.findings) == [f"{said}/2001:db8::1"]
    own.take(Batch(6, (), [f"{said}/198.51.100.1"]))
    assert not own.draining.rows


def test_a_drain_that_an_operator_has_ended_is_known() -> None:
    own = Own("east")
    own.take(Batch(5, [Entry("meshgate/v1/east/evicted/198.51.100.1/9", b"{}", 5, 5, 0)]))
    assert set(own.evicted.rows) == {"198.51.100.1/9"}


def test_what_the_feed_says_of_addresses_is_known() -> None:
    own, address = Own("east"), ip_address("198.51.100.10")
    row = Listed(("erp",), waits=("pan",), without=("forti",))
    key = listed_key("east", address)
    own.take(Batch(5, [Entry(key, listed_value(row), 5, 5, 0)]))
    assert own.listed.rows == {address: row}
    own.take(Batch(6, [Entry(key, b"[]", 5, 6, 0), Entry(f"{key}/x", b"{}", 6, 6, 0)]))
    assert (own.listed.rows, len(own.findings)) == ({address: row}, 2)
    own.take(Batch(7, (), [key]))
    assert not own.listed.rows


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


def test_a_controller_follows_all_that_its_tables_are_made_of() -> None:
    """A table whose keys nobody follows stays empty, and what waits for it waits for good."""
    pod = PodRef("n", "shop", "web")
    keys = [
        store.all_confirmed_key("east"),
        store.beat_key("east", "n"),
        store.confirmed_key("east", pod),
        store.draining_prefix("east", "n") + "198.51.100.10",
        store.evicted_key("east", ip_address("198.51.100.10"), 7),
        store.listed_key("east", ip_address("198.51.100.10")),
        store.pod_key("east", pod),
        store.programmed_key("east", "n"),
        store.revoked_key("east", "node", "n"),
        "meshgate/v1/east/demand/n",
        "meshgate/v1/east/learned/n/counts",
    ]
    followed = tuple(Own("east").needed_to_control)
    assert [key for key in keys if not key.startswith(followed)] == []
