"""Pods that another CNI connects: found by the addresses of eth0, and attached to both ways."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from mesh.core.model import (
    Attachment,
    LinkKey,
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    Sandbox,
)
from mesh.core.table import Table
from mesh.kernel import Link
from mesh.nodes.rows import beside_node, given_to
from mesh.pods.beside import (
    RETRY_S,
    SELDOM_S,
    SETTLE_S,
    YOUNG_S,
    Addresses,
    Door,
    FoundPod,
    FoundPods,
    Inside,
    Insides,
    Missing,
    found_pods,
    ordered,
    reported,
)
from mesh.pods.links import Device, device_name
from mesh.pods.rows import LocalPod, marked_since

V4, V6 = ip_address("10.244.1.7"), ip_address("fd44::7")
BOTH: Addresses = (V4, V6)
WEB, OLD = PodKey("east", "shop", "web"), PodKey("east", "shop", "old")
MAC, HOST_MAC = "02:00:00:00:00:07", "02:00:00:00:00:01"


def pod(key: PodKey, *, terminating: bool = False) -> Pod:
    return Pod(
        key.cluster, key.namespace, key.name, "east-1", addresses=BOTH, terminating=terminating
    )


def test_a_pod_is_where_eth0_has_its_addresses() -> None:
    inside = {"/run/netns/a": Inside(5, 2, 9, MAC, BOTH)}
    want = {WEB: FoundPod("/run/netns/a", 5, 9, 2, MAC, BOTH)}
    assert found_pods(BOTH, {WEB: pod(WEB)}, inside) == want
    assert found_pods(BOTH, {}, inside) == found_pods(BOTH, {WEB: pod(WEB)}, {}) == {}


def test_of_two_pods_with_one_address_the_one_that_goes_on_counts() -> None:
    inside = {"/run/netns/a": Inside(5, 2, 9, MAC, BOTH)}
    pods = {OLD: pod(OLD, terminating=True), WEB: pod(WEB)}
    assert list(found_pods(BOTH, pods, inside)) == [WEB]


def test_of_two_namespaces_with_one_address_the_newer_one_counts() -> None:
    inside = {
        "/run/netns/a": Inside(7, 2, 9, MAC, BOTH),
        "/run/netns/b": Inside(6, 2, 8, MAC, BOTH),
    }
    assert found_pods(BOTH, {WEB: pod(WEB)}, inside)[WEB].netns == "/run/netns/a"


def test_without_another_end_it_cannot_be_attached_to() -> None:
    assert found_pods(BOTH, {WEB: pod(WEB)}, {"/run/netns/a": Inside(5, 2, 0, MAC, BOTH)}) == {}


def test_addresses_compare_in_any_order() -> None:
    assert ordered([V6, V4]) == ordered([V4, V6]) == BOTH


class Space:
    """eth0 of a namespace, as the kernel would say it."""

    def __init__(self, link: Link | None, addresses: Addresses) -> None:
        self.link, self.found, self.looks = link, addresses, 0

    async def find(self, name: str) -> Link | None:
        assert name == "eth0"
        self.looks += 1
        return self.link

    async def addresses(self, ifindex: int) -> Addresses:
        assert self.link == ETH0
        assert ifindex == self.link.ifindex
        return self.found


class Watched:
    """Namespaces by path, looked into at the times of a clock."""

    def __init__(self, spaces: dict[str, Space]) -> None:
        self.now, self.spaces = 0.0, spaces
        self.namespaces: Table[str, int] = Table("netns")
        self.inside: Table[str, Inside] = Table("inside")
        self.attached: Table[Sandbox, Attachment] = Table("attachment")
        self.looking = Insides(
            self.namespaces, self.inside, self._open_in, lambda: self.now, attached=self.attached
        )
        self.namespaces.replace(dict.fromkeys(spaces, 5))

    @asynccontextmanager
    async def _open_in(self, path: str) -> AsyncIterator[Door]:
        if path not in self.spaces:
            raise OSError(errno.ENOENT, "gone")
        yield self.spaces[path]

    def look(self, after_s: float = 0) -> Mapping[str, Inside]:
        self.now += after_s
        asyncio.run(self.looking.look())
        return self.inside.rows


ETH0 = Link("eth0", 2, 1500, MAC, up=True, alias="", other=9)


def test_a_namespace_is_looked_at_until_eth0_has_addresses() -> None:
    space = Space(None, ())
    it = Watched({"/run/netns/a": space})
    assert it.look() == {}
    assert it.inside.synced
    space.link = ETH0
    assert it.look(RETRY_S) == {}
    space.found = (V6, V4)
    assert it.look(RETRY_S / 2) == {}, "not yet"
    assert it.look(RETRY_S / 2) == {"/run/netns/a": Inside(5, 2, 9, MAC, BOTH)}
    looks = space.looks
    it.look(10 * RETRY_S)
    assert space.looks == looks, "what is known is not asked again"


def attachment(
    number: int, inode: int, addresses: Addresses, interface: str = "eth0"
) -> Attachment:
    netns = f"/run/netns/{number}"
    return Attachment(f"c{number}", interface, "net", netns, inode, number, addresses=addresses)


FIRST, SECOND = (Sandbox("east", "shop", "web", tag) for tag in ("1", "2"))


def test_a_chained_add_says_the_addresses_before_the_status_does() -> None:
    row, old = attachment(2, 6, (V4,)), ip_address("10.244.1.9")
    pods = {WEB: replace(pod(WEB), reported=(old,)), OLD: replace(pod(OLD), reported=BOTH)}
    assert reported(pods, {}) == {WEB: (old,), OLD: BOTH}
    assert reported(pods, {FIRST: row}) == {WEB: (V4,), OLD: BOTH}
    assert reported({OLD: pods[OLD]}, {FIRST: row}) == {OLD: BOTH}
    newer = {FIRST: row, SECOND: attachment(3, 7, (V6,))}
    assert reported(pods, newer)[WEB] == (V6,), "of the newest sandbox"
    other = {FIRST: row, SECOND: attachment(3, 7, (V6,), "net1")}
    assert reported(pods, other)[WEB] == (V4,), "of eth0"


def test_the_namespace_of_a_chained_add_is_looked_at_at_once() -> None:
    """Whether it is in the folder or not, and whatever was there at the last look."""
    space = Space(ETH0, (V4,))
    it = Watched({"/run/netns/1": Space(None, ())})
    it.look()
    it.spaces["/run/netns/1"] = space
    assert it.look() == {}, "not due"
    it.attached.upsert({FIRST: attachment(1, 5, BOTH)})
    assert it.look() == {"/run/netns/1": Inside(5, 2, 9, MAC, (V4,))}
    space.found = BOTH
    assert it.look() == {"/run/netns/1": Inside(5, 2, 9, MAC, BOTH)}
    looks = space.looks
    it.look()
    assert space.looks == looks
    it.spaces["/run/netns/2"] = Space(ETH0, BOTH)
    it.attached.upsert({SECOND: attachment(2, 6, BOTH)})
    assert it.look()["/run/netns/2"].inode == 6
    it.attached.delete([SECOND])
    assert list(it.look()) == ["/run/netns/1"]


def test_a_namespace_of_some_other_program_is_looked_at_seldom() -> None:
    space = Space(None, ())
    it = Watched({"/run/netns/a": space})
    it.look()
    it.look(YOUNG_S)
    looks = space.looks
    it.look(SELDOM_S / 2)
    assert space.looks == looks
    it.look(SELDOM_S)
    assert space.looks == looks + 1


def test_what_is_there_at_the_first_look_is_adopted() -> None:
    spaces = {"/run/netns/a": Space(ETH0, BOTH)}
    it = Watched(spaces)
    it.look()
    spaces["/run/netns/b"] = Space(ETH0, (V4,))
    it.namespaces.replace(dict.fromkeys(spaces, 5))
    adopted = {path: row.adopted for path, row in it.look().items()}
    assert adopted == {"/run/netns/a": True, "/run/netns/b": False}


def test_a_namespace_that_goes_or_is_made_anew_is_looked_at_again() -> None:
    space = Space(ETH0, BOTH)
    it = Watched({"/run/netns/a": space})
    it.look()
    it.namespaces.replace({"/run/netns/a": 6})
    assert it.look() == {"/run/netns/a": Inside(6, 2, 9, MAC, BOTH)}
    it.namespaces.replace({})
    assert it.look() == {}
    it.namespaces.replace({"/run/netns/b": 7})
    assert it.look() == {}, "a path that cannot be opened is no error"


class Attached:
    """Where programs are, by the name of their pins."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[str, Path, str]] = {}
        self.taken: list[str] = []

    def both_ends(self, name: str, device: str, netns: Path, inside: str) -> None:
        self.there[name] = device, netns, inside

    def detach(self, name: str) -> None:
        del self.there[name]
        self.taken.append(name)


class Host:
    """The host's devices."""

    def __init__(self, **links: Link) -> None:
        self._links = links

    async def links(self) -> Mapping[str, Link]:
        return self._links


FOUND = FoundPod("/run/netns/a", 5, 9, 2, MAC, BOTH)


def host_end(other: int = 2, ifindex: int = 9) -> Link:
    return Link("veth9", ifindex, 1500, HOST_MAC, up=True, alias="", other=other)


def test_programs_stand_on_both_ends_and_the_device_is_known() -> None:
    attached, devices = Attached(), Table[LinkKey, Device]("device")
    target = FoundPods(Host(veth9=host_end()), attached, devices)
    assert asyncio.run(target.upsert({WEB: FOUND})) == {}
    assert attached.there == {device_name(WEB): ("veth9", Path("/run/netns/a"), "eth0")}
    assert devices.rows == {WEB: Device(9, MAC, HOST_MAC, BOTH)}
    assert asyncio.run(target.read()) == {WEB: FOUND}
    assert asyncio.run(target.delete([WEB])) == {}
    assert (attached.there, devices.rows, asyncio.run(target.read())) == ({}, {}, {})


@pytest.mark.parametrize("links", [{}, {"veth9": host_end(other=3)}], ids=["gone", "of another"])
def test_a_device_that_is_not_its_other_end_is_left_alone(links: Mapping[str, Link]) -> None:
    """An ifindex says nothing outside of its network namespace."""
    attached, devices = Attached(), Table[LinkKey, Device]("device")
    target = FoundPods(Host(**links), attached, devices)
    errors = asyncio.run(target.upsert({WEB: FOUND}))
    assert "no other end" in str(errors[WEB])
    assert (attached.there, devices.rows, target.failed) == ({}, {}, {WEB})


def test_a_pod_that_is_made_anew_under_its_name_leaves_no_link_behind() -> None:
    """Its eth0 has the index that the former one had, in another namespace."""
    attached, devices = Attached(), Table[LinkKey, Device]("device")
    target = FoundPods(Host(veth9=host_end()), attached, devices)
    asyncio.run(target.upsert({WEB: FOUND}))
    asyncio.run(target.upsert({WEB: FoundPod("/run/netns/b", 6, 9, 2, MAC, BOTH)}))
    assert attached.taken == [device_name(WEB)]
    assert attached.there[device_name(WEB)][1] == Path("/run/netns/b")


def test_a_pod_that_is_not_found_is_a_finding_after_a_while() -> None:
    now = [0.0]
    missing = Missing(lambda: now[0])
    pods = {WEB: pod(WEB)}

    def codes(found: list[PodKey], inside: Mapping[str, Inside]) -> list[str]:
        return [finding.code for finding in missing.findings(pods, found, inside)]

    assert codes([], {}) == []
    now[0] = SETTLE_S
    assert codes([], {}) == ["M232"]
    assert codes([], {"/run/netns/a": Inside(5, 2, 0, MAC, BOTH)}) == ["M233"]
    assert codes([WEB], {}) == []
    assert codes([], {}) == [], "it begins anew"


def test_a_node_has_the_cidrs_of_kubernetes_only_if_they_hold_all_of_its_pods() -> None:
    given = (ip_network("10.244.1.0/24"), ip_network("fd44::/64"))
    key = NodeKey("east", "east-1")
    node = Node("east", "east-1", (ip_address("10.99.0.11"),), given=given)
    inside = {PodRef("east-1", "shop", "web"): PodEntry(BOTH, "k8s:app=web;")}
    outside = {PodRef("east-1", "shop", "x"): PodEntry((ip_address("10.9.0.1"),), "k8s:app=x;")}
    for pods, cidrs in (({}, given), (inside, given), ({**inside, **outside}, ())):
        assert beside_node(key, node, pods, None)[key].pod_cidrs == cidrs
    assert beside_node(key, None, inside, None) == {}


def test_a_running_pod_has_its_marks_since_the_agent_gave_them() -> None:
    """A new pod has had them from its start, and a restarted agent keeps what it had said."""
    plain = LocalPod(9, 65537, MAC, HOST_MAC, (("egress_class", 0),))
    covered = replace(plain, marks=(("egress_class", 3),))

    def since(row: LocalPod, before: LocalPod | None, *, adopted: bool = False) -> int:
        rows = marked_since({V4: row}, {V4: before} if before else {}, 50, adopted=adopted)
        return rows[V4].since

    assert since(covered, None) == since(plain, None, adopted=True) == 0
    assert since(covered, None, adopted=True) == 50
    assert since(covered, plain) == 50
    assert since(covered, replace(covered, since=20)) == 20
    assert since(covered, replace(covered, since=20, marks=(("egress_class", 2),))) == 50
    assert since(plain, replace(covered, since=20)) == 0
    assert since(covered, replace(covered, since=20, ifindex=8)) == 0, "another pod"


def test_pod_cidrs_are_the_clusters_own_while_they_are_in_force() -> None:
    given, pool = (ip_network("10.244.1.0/24"),), (ip_network("10.1.0.0/24"),)
    key = NodeKey("east", "east-1")
    for in_force, found in ((given, list(given)), ((), []), (pool, [])):
        node = Node("east", "east-1", (), in_force, given=given)
        assert given_to(key, node) == found
