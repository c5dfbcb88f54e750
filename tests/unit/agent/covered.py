"""Egress and pods of one node as an agent has them, over maps of chosen sizes.

After each single write and delete of a map a packet would find: every row to which the class of a
pod leads, and the gateways of every address to which a row leads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gateway import blocks
from gateway.agent import EgressAgent
from gateway.members import GatewayKey
from gateway.plan import exclusions
from gateway.policy import POLICIES, EgressPolicy
from gateway.rows import EgressKey
from gateway.settings import Egress
from mesh.core.feature import Maps
from mesh.core.model import (
    Node,
    NodeKey,
    Pod,
    PodEntry,
    PodKey,
    PodRef,
    PodSelector,
    Requirement,
    Selector,
)
from mesh.core.reconcile import AppliedRows, Loop
from mesh.core.sources import OwnStore
from mesh.core.table import ColumnTable, Table
from mesh.identity.labels import identity_labels, namespace_of
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES, PODS
from mesh.objects.tables import Objects
from mesh.pods.agent import PodsAgent, Wiring
from mesh.pods.links import Device
from tests.unit.core.kernels import FakeMap

NO_ROOM = 0x7FFFFFFF
PLENTY = 1_000_000
OWN = NodeKey("east", "east-1")
ENDPOINT = IPv4Address("10.99.0.11")
CIDR = ip_network("10.1.0.0/24")
APPS = ("web", "api", "cart", "mail")


class FakeColumns:
    """``mg_block``, which these stories do not look at."""

    def __init__(self, table: ColumnTable) -> None:
        self._nothing = table.rows()

    async def read(self) -> tuple[Any, Any]:
        return self._nothing

    async def upsert(self, keys: object, values: object) -> None:
        raise NotImplementedError

    async def delete(self, keys: object) -> None:
        raise NotImplementedError


class FakeMaps(Maps):
    """Maps in memory; ``told`` says how many entries a map has by its own account.

    The kernel of such a map may say that it is full earlier: ``size`` of the map.
    """

    def __init__(self, choose: random.Random, told: Mapping[str, int]) -> None:
        self.told = dict(told)
        names = ("mg_egress", "mg_egress_addr", "mg_gateway", "mg_own_block", "mg_pod_addr")
        self.of = {name: FakeMap(choose, self.capacity(name)) for name in names}

    def rows(self, name: str, *_: object) -> FakeMap:
        return self.of[name]

    def columns(self, _: str, table: ColumnTable) -> FakeColumns:
        return FakeColumns(table)

    def enum(self, name: str) -> Mapping[str, int]:
        classes = {"EGRESS_UNCOVERED": 0, "EGRESS_CLASS_NO_ROOM": NO_ROOM}
        return classes if name == "egress_class" else {}

    def capacity(self, name: str) -> int:
        return self.told.get(name, PLENTY)


class FakeEntries:
    """Keys of pods, which nobody writes."""

    synced = ("synced", b"")

    def key(self, ref: PodRef) -> str:
        return ref.name

    def value(self, entry: PodEntry) -> bytes:
        return entry.labels.encode()


def policy(name: str, apps: tuple[str, ...], networks: int, gateway: str) -> EgressPolicy:
    """A policy with networks of its own, an address of its own, and the gateways of one label."""
    number = int(name.removeprefix("p"))
    return EgressPolicy(
        name,
        (PodSelector(None, Selector((Requirement("app", "In", apps),))),),
        tuple(ip_network(f"192.{number % 250}.{at}.0/24") for at in range(networks)),
        (),
        (ip_address(f"198.51.{number % 250}.10"),),
        Selector((Requirement("role", "In", (gateway,)),)),
        created=f"2026-01-01T00:00:{number:06}",
    )


class Covered:
    """``told`` are capacities of maps."""

    def __init__(self, choose: random.Random, told: Mapping[str, int], state: Path) -> None:
        self.choose = choose
        self.loop = Loop()
        self.maps = FakeMaps(choose, told)
        self.objects = Objects(KINDS.nouns)
        self.names: dict[int, tuple[str, ...]] = {}  # of every class there ever was
        self.policies: dict[str, EgressPolicy] = {}  # every one there ever was
        self._number: Table[str, int] = Table("number")
        self._node: Table[NodeKey, Node] = Table("node")
        claims = {blocks.NOUN: Table[Any, Any]("claim")}
        store = SimpleNamespace(claims=claims, resting={blocks.NOUN: Table[Any, Any]("resting")})
        mine = self.objects[PODS]
        self.egress = EgressAgent(
            OWN, ENDPOINT, Egress(), state, self.objects, mine, cast(OwnStore, store)
        )
        self.pods = PodsAgent(
            OWN, Wiring("{name}", 1500), self.objects, mine, self._node, self._number,
            self.egress.marks, FakeEntries(),
        )  # fmt: skip
        self._number.mark_synced()
        self.pods.devices.mark_synced()
        node = Node("east", "east-1", (ENDPOINT,), pod_cidrs=(CIDR,))
        self._node.replace({OWN: node})
        for table in self.objects.tables().values():
            table.mark_synced()
        self.add_nodes("a", "b")

    def add_nodes(self, *roles: str) -> None:
        """A gateway for each role."""
        for role in roles:
            address = IPv4Address(f"10.99.1.{ord(role)}")
            node = Node("east", f"gw-{role}", (address,), labels=(("role", role),))
            self.objects[NODES].upsert({NodeKey("east", node.name): node})

    async def connect(self) -> None:
        """As a process starts."""
        await self.egress.recover(self.maps)
        self.egress.derive(self.loop)
        self.pods.derive(self.loop)
        self.egress.apply(self.loop, self.maps)
        target = self.maps.rows("mg_pod_addr")
        self.pods.apply_rows(self.loop, target, self.maps.capacity("mg_pod_addr"))
        for one in self.maps.of.values():
            one.check = self.check
        self.loop.follow(self.egress.classes, lambda _: self._remember())

    def _remember(self) -> None:
        self.names.update({number: names for names, number in self.egress.classes.rows.items()})

    # What happens

    def put_pod(self, name: str, app: str) -> None:
        """A pod of this node, wired and with an identity."""
        key = PodKey("east", "shop", name)
        pod = Pod("east", "shop", name, "east-1", (("app", app),))
        self.objects[PODS].upsert({key: pod})
        self._number.upsert({identity_labels(pod, namespace_of(pod, {})): 65537})
        self.pods.devices.upsert({key: Device(int(name.removeprefix("pod")) + 10, "m", "h")})

    def delete_pod(self, name: str) -> None:
        key = PodKey("east", "shop", name)
        self.objects[PODS].delete([key])
        self.pods.devices.delete([key])

    def put_policy(self, one: EgressPolicy) -> None:
        self.policies[one.name] = one
        self.objects[POLICIES].upsert({one.name: one})

    def delete_policy(self, name: str) -> None:
        self.objects[POLICIES].delete([name])

    def event(self, number: int) -> None:
        """Something that the user does."""
        choose, kind = self.choose, self.choose.random()
        if kind < 0.35:
            self.put_pod(f"pod{choose.randrange(10)}", choose.choice(APPS))
        elif kind < 0.45:
            self.delete_pod(f"pod{choose.randrange(10)}")
        elif kind < 0.75:
            apps = tuple(choose.sample(APPS, choose.randint(1, 3)))
            made = policy(f"p{number}", apps, choose.randint(1, 4), choose.choice("abc"))
            self.put_policy(made)
        elif held := sorted(self.objects[POLICIES].rows):
            self.delete_policy(choose.choice(held))

    # What a packet would find

    def check(self) -> None:
        """Every row that another row leads to is there."""
        egress, sets = self.maps.of["mg_egress"].rows, self.maps.of["mg_egress_addr"].rows
        for row in self.maps.of["mg_pod_addr"].rows.values():
            missing = self.networks(dict(row.marks)["egress"]) - egress.keys()
            assert not missing, f"a pod's class leads to {missing}"
        for row in egress.values():
            assert row.address is None or row.address in sets, f"no gateways of {row.address}"
        for address, nodes in sets.items():
            members = {GatewayKey(address, node) for node in nodes}
            assert members <= self.maps.of["mg_gateway"].rows.keys()

    def networks(self, number: int) -> set[EgressKey]:
        """The rows of a class, as its policies were written."""
        if number in (0, NO_ROOM):
            return set()
        policies = [self.policies[name] for name in self.names[number]]
        return {
            EgressKey(number, network)
            for one in policies
            for network in (*one.destinations, *exclusions(one))
        }

    def class_of(self, name: str) -> int | None:
        """The class in the map's row of a pod; None without a row."""
        key = PodKey("east", "shop", name)
        pod = self.pods.local_pod.rows.get(key)
        row = self.maps.of["mg_pod_addr"].rows.get(pod.addresses[0]) if pod else None
        return dict(row.marks)["egress"] if row else None

    def classes(self) -> dict[PodKey, int]:
        """The class in the map's row of each covered pod."""
        found = {key: self.class_of(key.name) for key in self.egress.coverage.covered.rows}
        return {key: -1 if number is None else number for key, number in found.items()}

    @property
    def calm(self) -> bool:
        """Whether nothing is left to do."""
        return self.loop.gate.open and all(
            isinstance(one, AppliedRows) and self._is_calm(one)
            for one in self.loop.applied
            if one.table is not self.egress.owner
        )

    def _is_calm(self, one: AppliedRows[Any, Any]) -> bool:
        wanted = {
            key: row
            for key, row in one.rows.rows.items()
            if self._token(one, key) not in one.left_out.rows
        }
        return bool(one.known) and cast(FakeMap, one.target).rows == wanted

    def _token(self, one: AppliedRows[Any, Any], key: Any) -> Any:
        return key.egress if one.rows is self.egress.egress else key
