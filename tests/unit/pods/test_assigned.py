"""What one pod costs: the same addresses and identities as a look at all pods gives."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_network

import pytest

from mesh.core.model import IP, Network, Node, NodeKey, Pod, PodKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.identity.labels import identity_labels, namespace_of
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES
from mesh.objects.tables import Objects
from mesh.pods.agent import PodsAgent, Wiring
from mesh.pods.assigned import Assigned, assign
from mesh.pods.links import Device
from mesh.pods.rows import PodIdentity
from tests.fixtures.rooms import FakeEntries

V4, OTHER, V6 = ip_network("10.1.0.0/28"), ip_network("10.7.0.0/28"), ip_network("fd01::/64")
CIDRS: tuple[tuple[Network, ...], ...] = ((), (V4,), (V4, V6), (V6, V4), (V4, OTHER), (V6,))
NODE = NodeKey("east", "east-1")


def key(number: int) -> PodKey:
    return PodKey("east", "shop", f"p{number:02}")


@pytest.mark.parametrize("seed", range(60))
def test_pods_that_come_and_go_get_the_addresses_that_a_look_at_all_gives(seed: int) -> None:
    """Eighteen names for thirteen offsets: some pods wait until another one goes."""
    choose = random.Random(seed)
    pods, whole = set[PodKey](), dict[PodKey, tuple[IP, ...]]()
    for _ in range(4):
        cidrs = choose.choice(CIDRS)
        whole = assign(pods, cidrs, whole)
        held = dict(whole)
        assigned = Assigned(pods, cidrs, held)
        for _ in range(25):
            some = [key(choose.randrange(18)) for _ in range(choose.randint(1, 4))]
            came = some if choose.random() < 0.6 else []
            gone = [] if came else [one for one in some if one in pods]
            pods = (pods | set(came)) - set(gone)
            before, whole = whole, assign(pods, cidrs, whole)
            if assigned.unplaced:
                continue
            given = assigned.change(came, gone)
            assert held == whole
            assert set(given) == {one for one in whole if one not in before}


class Pods:
    """The pods of a node, with the identities that a look at all of them gives."""

    def __init__(self, choose: random.Random) -> None:
        self.choose, self.loop = choose, Loop()
        self.mine: Table[PodKey, Pod] = Table("object")
        self.number: Table[str, int] = Table("number")
        node: Table[NodeKey, Node] = Table("node")
        objects = Objects(KINDS.nouns)
        wiring = Wiring("{name}", 1500)
        self.pods = PodsAgent(
            NODE, wiring, objects, self.mine, node, self.number, (), FakeEntries()
        )
        self.pods.derive(self.loop)
        node.replace({NODE: Node("east", "east-1", (), (V4, V6))})
        for table in (self.mine, self.number, self.pods.devices, objects[NAMESPACES]):
            table.mark_synced()
        self.identities: dict[PodKey, PodIdentity] = {}

    def put(self, one: PodKey) -> None:
        labels = (("app", f"a{self.choose.randrange(3)}"),)
        self.mine.upsert({one: Pod("east", "shop", one.name, "east-1", labels=labels)})

    def drop(self, one: PodKey) -> None:
        self.mine.delete([one])

    def wire(self, one: PodKey) -> None:
        self.pods.devices.upsert({one: Device(self.choose.randrange(3, 6), "", "", ())})

    def unwire(self, one: PodKey) -> None:
        self.pods.devices.delete([one])

    def claim(self, one: PodKey) -> None:
        if one in self.mine.rows:
            self.number.upsert({self.text(one): self.choose.randrange(1, 9)})

    def release(self, one: PodKey) -> None:
        if one in self.mine.rows:
            self.number.delete([self.text(one)])

    def text(self, one: PodKey) -> str:
        pod = self.mine.rows[one]
        return identity_labels(pod, namespace_of(pod, {}))

    def look_at_all(self) -> dict[IP, tuple[int, int]]:
        """D23, over every pod: what each address has."""
        before, self.identities = self.identities, {}
        found: dict[IP, tuple[int, int]] = {}
        for one, pod in self.pods.local_pod.rows.items():
            device, last = self.pods.devices.rows.get(one), before.get(one)
            number = self.number.rows.get(self.text(one))
            if device and number:
                self.identities[one] = PodIdentity(device.ifindex, number)
            elif device and last and last.ifindex == device.ifindex:
                self.identities[one] = last
            if row := self.identities.get(one):
                found |= dict.fromkeys(pod.addresses, (row.ifindex, row.identity))
        return found


@pytest.mark.parametrize("seed", range(30))
def test_a_change_gives_the_pods_and_identities_that_a_look_at_all_gives(seed: int) -> None:
    it = Pods(random.Random(seed))
    events = (it.put, it.put, it.drop, it.wire, it.wire, it.unwire, it.claim, it.claim, it.release)
    for _ in range(150):
        it.choose.choice(events)(key(it.choose.randrange(16)))
        it.loop.derive_all()
        want = it.look_at_all()
        assert {ip: (row.ifindex, row.identity) for ip, row in it.pods.pod.rows.items()} == want
        held = assign(it.mine.rows, (V4, V6), it.pods.held)
        pods = {one: replace(it.mine.rows[one], addresses=ips) for one, ips in held.items()}
        assert it.pods.local_pod.rows == pods
