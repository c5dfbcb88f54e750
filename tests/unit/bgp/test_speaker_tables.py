"""The speaker's tables while its sources arrive one after the other, and its End-of-RIB."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from bgp.desired import peerings
from bgp.exabgp.lines import OddLine, SessionEvent
from bgp.findings import HELD, NO_PASSWORD, NO_ROUTER_ID, ODD_LINE
from bgp.passwords import SECRETS, Secret
from bgp.peer import PEERS, Advertise, BGPPeer, Password
from bgp.route import Family, Route, RouteKey, family_of
from clustermesh.store.follow import Batch, Entry
from gateway.policy import POLICIES, EgressPolicy
from gateway.pool import POOLS
from mesh.config import Cluster, Etcd, SpeakerConfig
from mesh.core.model import Network, Node, NodeKey, PodSelector, Requirement, Selector
from mesh.core.table import Table
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.services.kinds import ENDPOINTS, SERVICES, SLICES
from mesh.speaker import Speaker
from srv6.vrf.kind import VRFS

GATEWAY = Selector((Requirement("role", "In", ("gateway",)),))
ROUTER = ip_address("10.99.0.1")
ROUTER_ID = IPv4Address("10.99.0.12")
POLICY = EgressPolicy(
    "erp",
    (PodSelector(None, Selector()),),
    (ip_network("192.0.2.0/24"),),
    (),
    (ip_address("198.51.100.10"),),
    GATEWAY,
    max_gateways=1,
)
CLAIMED = RouteKey(ROUTER, ip_network("10.1.2.0/24"))
EGRESS = RouteKey(ROUTER, ip_network("198.51.100.10/32"))


def node(number: int) -> dict[NodeKey, Node]:
    name, labels = f"east-{number}", (("role", "gateway"),)
    addresses = (ip_address(f"10.99.0.1{number}"),)
    return {NodeKey("east", name): Node("east", name, addresses, labels=labels)}


def peer(name: str, asn: int) -> dict[str, BGPPeer]:
    advertise = (Advertise("podCIDRs"), Advertise("egressIPs"))
    return {name: BGPPeer(name, Selector(), ROUTER, asn, 65101, advertise)}


def speaker(tmp_path: Path, router_id: IPv4Address | None = ROUTER_ID) -> Speaker:
    """The speaker of east-2."""
    return Speaker(
        SpeakerConfig(
            cluster=Cluster(name="east", id=1),
            node="east-2",
            manifests=tmp_path,
            etcd=Etcd(endpoints=("http://127.0.0.1:1",)),
            run_dir=tmp_path / "bgp",
            socket=tmp_path / "socket",
            router_id=router_id,
            exabgp_user="1900000001",
        )
    )


def claim(it: Speaker) -> None:
    key = "meshgate/v1/east/podcidr/10.1.0.0_16_24/number/2"
    it.take(Batch(1, [Entry(key, b'{"owner": "east-2"}', 1, 1, 0)], listed=True))


def adopted(it: Speaker) -> None:
    """ExaBGP has the session with ``router``, AS 65000."""
    (me,) = node(2).values()
    it.session.memory.peerings, _ = peerings(me, peer("router", 65000).values())


def of_claims(it: Speaker) -> list[Table[Any, Any]]:
    """All that other features announce by."""
    services = [it.objects[noun] for noun in (SERVICES, SLICES, ENDPOINTS, PODS, HOST_PODS)]
    return [
        *it.claims.values(),
        it.objects[VRFS],
        it.objects[POOLS],
        it.own.pods,
        *services,
        it.proxy.table,
    ]


def sync(*tables: Table[Any, Any]) -> None:
    for table in tables:
        table.mark_synced()


def test_without_a_router_id_it_is_the_first_ipv4_address_that_the_node_had(tmp_path: Path) -> None:
    it = speaker(tmp_path, None)
    it.objects[PEERS].upsert(peer("router", 65000))
    key = NodeKey("east", "east-2")
    six, four, other = map(ip_address, ("fd99::12", "10.99.0.12", "10.99.0.99"))
    it.objects[NODES].upsert({key: Node("east", "east-2", (six,))})
    sync(it.objects[PEERS], it.objects[NODES])
    it.loop.derive_all()
    assert not it.peerings.rows
    assert NO_ROUTER_ID in {finding.code for finding in it.findings()}
    it.objects[NODES].upsert({key: Node("east", "east-2", (six, four))})
    it.loop.derive_all()
    assert it.session.router_id == four
    assert it.peerings.rows
    assert NO_ROUTER_ID not in {finding.code for finding in it.findings()}
    it.objects[NODES].upsert({key: Node("east", "east-2", (other, four))})
    it.loop.derive_all()
    assert it.session.router_id == four, "a change would end the sessions"


def test_a_speaker_knows_which_api_servers_were_accepted(tmp_path: Path) -> None:
    it = speaker(tmp_path)
    key = "meshgate/v1/east/apiserver/uid-2"
    (take,) = [took for prefix, took in it.prefixes.items() if key.startswith(prefix)]
    take(Batch(1, [Entry(key, b"{}", 1, 1, 0)], listed=True))
    assert set(it.api_servers.rows) == {"uid-2"}
    take(Batch(2, (), [key]))
    assert not it.api_servers.rows


def test_an_egress_address_waits_until_all_nodes_are_known(tmp_path: Path) -> None:
    """The gateway is the first of the nodes: of half of them it may be another one."""
    it = speaker(tmp_path)
    adopted(it)
    it.objects[POLICIES].upsert({"erp": POLICY})
    it.objects[PEERS].upsert(peer("router", 65000))
    sync(it.objects[PEERS], it.objects[POLICIES])
    it.objects[NODES].upsert(node(2))
    claim(it)
    it.loop.derive_all()
    assert set(it.routes.rows) == {CLAIMED}
    it.objects[NODES].upsert(node(1))
    sync(it.objects[NODES])
    it.loop.derive_all()
    assert set(it.routes.rows) == {CLAIMED}


def test_an_egress_address_waits_until_all_policies_are_known(tmp_path: Path) -> None:
    """Of two policies with one address the first by name has it."""
    it = speaker(tmp_path)
    it.objects[NODES].upsert(node(1) | node(2))
    it.objects[PEERS].upsert(peer("router", 65000))
    sync(it.objects[PEERS], it.objects[NODES])
    name = Selector((Requirement("name", "In", ("two",)),))
    two = Node("east", "east-2", (ip_address("10.99.0.12"),), labels=(("name", "two"),))
    it.objects[NODES].upsert({NodeKey("east", "east-2"): two})
    late = EgressPolicy("z", POLICY.selectors, POLICY.destinations, (), POLICY.addresses, name)
    it.objects[POLICIES].upsert({"z": late})
    it.loop.derive_all()
    assert not it.routes.rows
    it.objects[POLICIES].upsert({"erp": POLICY})
    sync(it.objects[POLICIES])
    it.loop.derive_all()
    assert not it.routes.rows


def test_an_egress_address_needs_no_store(tmp_path: Path) -> None:
    it = speaker(tmp_path)
    it.objects[POLICIES].upsert({"erp": POLICY})
    it.objects[PEERS].upsert(peer("router", 65000))
    it.objects[NODES].upsert(node(2))
    sync(it.objects[PEERS], it.objects[POLICIES], it.objects[POOLS], it.objects[NODES])
    it.loop.derive_all()
    assert set(it.routes.rows) == {EGRESS}
    assert not it.routes.synced


def test_a_session_that_is_there_is_shown_before_all_peers_are_known(tmp_path: Path) -> None:
    it = speaker(tmp_path)
    adopted(it)
    it.objects[NODES].upsert(node(2))
    it.objects[PEERS].upsert(peer("router", 65000))
    it.loop.derive_all()
    assert [row.name for row in it.peerings.rows.values()] == ["router"]


def test_a_session_waits_until_all_peers_are_known(tmp_path: Path) -> None:
    """Of two BGPPeers with one address the first by name has it; the other must not end it."""
    it = speaker(tmp_path)
    it.objects[NODES].upsert(node(2))
    it.objects[PEERS].upsert(peer("b", 65001))
    it.loop.derive_all()
    assert not it.peerings.rows
    it.objects[PEERS].upsert(peer("a", 65000))
    sync(it.objects[NODES], it.objects[PEERS])
    it.loop.derive_all()
    assert [row.asn for row in it.peerings.rows.values()] == [65000]


class Slow:
    """A target whose deletes take a while."""

    name = "slow"

    def __init__(self, rows: dict[Any, Any]) -> None:
        self.rows = rows

    async def read(self) -> Mapping[Any, Any]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self.rows |= rows
        return {}

    async def delete(self, keys: Collection[Any]) -> Mapping[Any, Exception]:
        for _ in range(10):
            await asyncio.sleep(0)
        for key in keys:
            self.rows.pop(key, None)
        return {}


def test_end_of_rib_is_said_after_the_last_withdrawal(tmp_path: Path) -> None:
    """A route that went while the speaker was dead is still announced when the sources sync."""

    async def run() -> None:
        it = speaker(tmp_path)
        prefix = ip_network("10.1.9.0/24")
        gone = RouteKey(ROUTER, prefix)
        it.of_peerings.target = Slow({})
        it.of_routes.target = Slow({gone: Route(prefix, ip_address("10.99.0.12"))})
        released = asyncio.Event()

        async def release() -> None:
            assert gone not in it.of_routes.target.rows
            it.session.owed.clear()
            released.set()

        it.session.release = release
        tasks = [asyncio.create_task(job) for job in (it.loop.run(), it.release())]
        it.session.owed.add(ROUTER)
        it.session.lost()
        for _ in range(50):
            await asyncio.sleep(0)
        it.objects[NODES].upsert(node(2))
        it.objects[PEERS].upsert(peer("router", 65000))
        claim(it)
        sync(it.objects[NODES], it.objects[PEERS], it.objects[POLICIES], *of_claims(it))
        async with asyncio.timeout(5):
            await released.wait()
        assert set(it.of_routes.target.rows) == {CLAIMED}
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_an_odd_line_is_a_finding_of_its_session_until_the_next_good_one(tmp_path: Path) -> None:
    it = speaker(tmp_path)
    adopted(it)

    def odd() -> list[tuple[str, ...]]:
        return [one.about for one in it.findings() if one.code == ODD_LINE]

    it.session.states.note_odd(OddLine(f'{{"peer": "{ROUTER}", "state": 7}}', ValueError("odd")))
    it.session.states.note_odd(OddLine('{"peer": "10.99.0.77"}', ValueError("odd")))
    assert odd() == [("node/east-2", f"peer/{ROUTER}"), ("node/east-2",)]
    it.session.states.hear(SessionEvent("state", ROUTER, "up"))
    assert odd() == [("node/east-2",)]


def test_a_node_without_routers_is_ready(tmp_path: Path) -> None:
    """It starts no ExaBGP, so nothing is left to be said; before the peers are known it is not."""
    it = speaker(tmp_path)
    it.objects[NODES].upsert(node(2))
    sync(it.objects[NODES])
    it.loop.derive_all()
    assert not it.status()["ready"]
    sync(it.objects[PEERS])
    it.loop.derive_all()
    assert it.status()["ready"]
    it.objects[PEERS].upsert(peer("router", 65000))
    it.loop.derive_all()
    assert not it.status()["ready"]


def claims(it: Speaker, *numbers: int, listed: bool = True, gone: tuple[int, ...] = ()) -> None:
    """Pod CIDRs of the node, as a list or as events."""
    prefix = "meshgate/v1/east/podcidr/10.1.0.0_16_24/number/"
    entries = [Entry(f"{prefix}{one}", b'{"owner": "east-2"}', 1, 1, 0) for one in numbers]
    it.take(Batch(1, entries, [f"{prefix}{one}" for one in gone], listed=listed))


def running(tmp_path: Path, *numbers: int) -> Speaker:
    it = speaker(tmp_path)
    it.objects[NODES].upsert(node(2))
    it.objects[PEERS].upsert(peer("router", 65000))
    claims(it, *numbers)
    tables = (it.objects[one] for one in (NODES, PEERS, POLICIES, SECRETS))
    sync(*tables, *of_claims(it))
    it.loop.derive_all()
    return it


def held(it: Speaker) -> int:
    assert {str(key.peer) for key in it.routes.rows} <= {str(ROUTER)}
    return sum(one.code == HELD for one in it.findings())


def test_claims_that_a_list_lacks_stay_announced_until_an_operator_lets_them_go(
    tmp_path: Path,
) -> None:
    it = running(tmp_path, *range(20))
    assert len(it.routes.rows) == 20
    claims(it, 0, gone=tuple(range(1, 20)))
    it.loop.derive_all()
    assert (len(it.routes.rows), held(it)) == (20, 1)
    accept(it)
    assert (len(it.routes.rows), held(it)) == (1, 0)


def accept(it: Speaker) -> None:
    """``meshgate peer accept`` of the router."""
    key = f"meshgate/v1/east/accepted/peer/{ROUTER}"
    (take,) = [took for prefix, took in it.prefixes.items() if key.startswith(prefix)]
    at = datetime.now(UTC).isoformat().encode()
    take(Batch(2, [Entry(key, b'{"at": "%s"}' % at, 1, 1, 0)]))
    it.loop.derive_all()


@pytest.mark.parametrize(("listed", "left"), [(True, 19), (False, 0)])
def test_a_session_whose_object_a_list_lacks_goes_on(
    tmp_path: Path,
    listed: bool,  # noqa: FBT001 - pytest's
    left: int,
) -> None:
    it = running(tmp_path, *range(20))
    it.session.memory.remember(dict(it.routes.rows))
    it.session.memory.save(peerings=dict(it.peerings.rows))
    claims(it, *range(19), listed=listed, gone=(19,))
    it.objects[PEERS].delete(["router"])
    it.loop.derive_all()
    assert (len(it.routes.rows), held(it)) == (left, int(listed))
    if listed:
        it.objects[PEERS].upsert(peer("router", 65000))
        it.loop.derive_all()
        assert (len(it.routes.rows), held(it)) == (19, 0)
        it.objects[PEERS].delete(["router"])
        it.loop.derive_all()
        assert held(it) == 1
        accept(it)
    assert not it.peerings.rows
    assert not it.routes.rows


def test_claims_that_were_seen_to_be_deleted_are_withdrawn(tmp_path: Path) -> None:
    it = running(tmp_path, *range(20))
    claims(it, listed=False, gone=tuple(range(1, 20)))
    it.loop.derive_all()
    assert (len(it.routes.rows), held(it)) == (1, 0)


def test_a_speaker_that_starts_withdraws_no_great_part_for_the_sake_of_its_first_list(
    tmp_path: Path,
) -> None:
    first = running(tmp_path, *range(20))
    first.session.memory.remember(dict(first.routes.rows))
    first.session.memory.save(peerings=dict(first.peerings.rows))
    first.session.memory.close()
    again = running(tmp_path, 0, 1)
    assert (len(again.routes.rows), held(again)) == (20, 1)
    claims(again, *range(20), listed=False)
    again.loop.derive_all()
    assert (len(again.routes.rows), held(again)) == (20, 0)


def test_a_session_waits_for_its_password(tmp_path: Path) -> None:
    it = speaker(tmp_path)
    it.objects[NODES].upsert(node(2))
    (row,) = peer("router", 65000).values()
    it.objects[PEERS].upsert({"router": replace(row, password=Password("", "meshgate-bgp"))})
    sync(it.objects[NODES], it.objects[PEERS])
    it.loop.derive_all()
    assert not it.peerings.rows
    assert NO_PASSWORD not in {one.code for one in it.findings()}, "the Secret is not known yet"
    sync(it.objects[SECRETS])
    it.loop.derive_all()
    assert NO_PASSWORD in {one.code for one in it.findings()}
    secret = Secret("meshgate-bgp", (("password", "s3cret"),))
    it.objects[SECRETS].upsert({"meshgate-bgp": secret})
    it.loop.derive_all()
    assert [one.password for one in it.peerings.rows.values()] == ["s3cret"]
    assert NO_PASSWORD not in {one.code for one in it.findings()}


def test_a_look_at_sessions_costs_routes_once_for_each_change_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is due every two seconds, and a session may have 100,000 routes."""
    asked: list[Network] = []

    def counting(prefix: Network, rd: str = "") -> Family:
        asked.append(prefix)
        return family_of(prefix, rd)

    monkeypatch.setattr("mesh.speaker.family_of", counting)
    it = speaker(tmp_path)
    adopted(it)
    (peering,) = it.session.memory.peerings.values()
    it.routes.upsert({EGRESS: Route(EGRESS.prefix, ROUTER)})
    for _ in range(3):
        assert it._unsent(peering, (Family.IPV6,)) == [Family.IPV4]  # noqa: SLF001 - what the finding asks
        assert it._unsent(peering, (Family.IPV4,)) == []  # noqa: SLF001 - what the finding asks
    assert len(asked) == 1
    it.routes.delete([EGRESS])
    assert it._unsent(peering, ()) == []  # noqa: SLF001 - what the finding asks
