"""Egress and pods of one node as an agent has them, over maps of chosen sizes.

After each single write and delete of a map a packet would find: every row to which the class of a
pod leads, and the gateways of every address to which a row leads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import numpy as np

from gateway.members import GatewayKey
from gateway.plan import exclusions
from gateway.policy import POLICIES, EgressPolicy
from gateway.rows import EgressKey
from gateway.spread import policy_of
from mesh.core.feature import Maps
from mesh.core.model import PodKey
from mesh.core.reconcile import AppliedRows
from mesh.core.table import ColumnTable
from tests.fixtures.rooms import Rooms, policy
from tests.unit.core.kernels import FakeMap

NO_ROOM = 0x7FFFFFFF
ENUMS = {
    "egress_class": {"EGRESS_UNCOVERED": 0, "EGRESS_CLASS_NO_ROOM": NO_ROOM},
    "gateway_limit": {"GATEWAYS": 16},
}
LPM_KEY = np.dtype([("prefix", "u4"), ("class", "u4"), ("addr", "V16")])
PLENTY = 1_000_000
CIDR = ip_network("10.1.0.0/24")
APPS = ("web", "api", "cart", "mail")


class FakeColumns:
    """``mg_block``, which these stories do not look at."""

    name = "mg_block"

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
        names = (
            "mg_egress", "mg_egress_label", "mg_egress_addr", "mg_ended", "mg_gateway",
            "mg_own_block", "mg_egress_pods", "mg_pod_addr", "mg_known", "mg_timers", "mg_run",
            "mg_block_size",
        )  # fmt: skip
        self.of = {name: FakeMap(choose, self.capacity(name), name) for name in names}

    def rows(self, name: str, *_: object) -> FakeMap:
        return self.of[name]

    def columns(self, _: str, table: ColumnTable) -> FakeColumns:
        return FakeColumns(table)

    def enum(self, name: str) -> Mapping[str, int]:
        return ENUMS.get(name, {})

    def struct(self, _: str) -> np.dtype[Any]:
        return LPM_KEY

    def capacity(self, name: str) -> int:
        return self.told.get(name, PLENTY)


class Covered(Rooms):
    """``told`` are capacities of maps; ``synced`` as in ``Rooms``."""

    def __init__(
        self, choose: random.Random, told: Mapping[str, int], state: Path, *, synced: bool = True
    ) -> None:
        super().__init__(state, CIDR, synced=synced)
        self.choose = choose
        self.maps = FakeMaps(choose, told)
        self.names: dict[int, tuple[str, ...]] = {}  # of every class there ever was
        self.policies: dict[str, EgressPolicy] = {}  # every one there ever was
        for role in "ab":
            self.put_node(f"gw-{role}", f"10.99.1.{ord(role)}", role)

    async def begin(self) -> None:
        """Connect the rooms with the maps."""
        await self.connect(self.maps)
        for one in self.maps.of.values():
            one.check = self.check
        self.loop.follow(self.egress.classes, lambda _: self._remember())

    def apply(self, maps: Maps) -> None:
        self.egress.apply(self.loop, maps)
        target = self.maps.rows("mg_pod_addr")
        self.pods.apply_rows(self.loop, target, maps.capacity("mg_pod_addr"))

    def _remember(self) -> None:
        self.names.update({number: names for names, number in self.egress.classes.rows.items()})

    def put_policy(self, one: EgressPolicy) -> None:
        self.policies[one.name] = one
        super().put_policy(one)

    def event(self, number: int) -> None:
        """Something that the user does."""
        choose, kind = self.choose, self.choose.random()
        if kind < 0.35:
            self.put(choose.randrange(10), choose.choice(APPS))
        elif kind < 0.45:
            self.delete_pod(f"pod{choose.randrange(10)}")
        elif kind < 0.75:
            apps = tuple(choose.sample(APPS, choose.randint(1, 3)))
            made = policy(f"p{number}", apps, choose.randint(1, 2), choose.choice("abc"))
            self.put_policy(made)
        elif held := sorted(self.objects[POLICIES].rows):
            self.delete_policy(choose.choice(held))

    def put(self, number: int, app: str) -> None:
        """Pod ``pod<number>``."""
        self.put_pod(f"pod{number}", app, number + 10)

    # What a packet would find

    def check(self) -> None:
        """Every row that another row leads to is there."""
        egress, sets = self.maps.of["mg_egress"].rows, self.maps.of["mg_egress_addr"].rows
        for row in self.maps.of["mg_pod_addr"].rows.values():
            missing = self.networks(dict(row.marks)["egress_class"]) - egress.keys()
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
        policies = [self.policies[policy_of(word)] for word in self.names[number]]
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
        return dict(row.marks)["egress_class"] if row else None

    def classes(self) -> dict[PodKey, int]:
        """The class in the map's row of each covered pod; -1 without a row."""
        found = {key: self.class_of(key.name) for key in self.egress.coverage.covered.rows}
        return {key: -1 if number is None else number for key, number in found.items()}

    @property
    def calm(self) -> bool:
        """Whether nothing is left to do."""
        rows = [one for one in self.loop.applied if isinstance(one, AppliedRows)]
        return self.loop.gate.open and all(map(self._is_calm, rows))

    def _is_calm(self, one: AppliedRows[Any, Any]) -> bool:
        wanted = {
            key: row
            for key, row in one.rows.rows.items()
            if self._token(one, key) not in one.left_out.rows
        }
        of_egress = one.rows is self.egress.egress
        there = self.maps.of["mg_egress"] if of_egress else cast(FakeMap, one.target)
        return bool(one.known) and there.rows == wanted

    def _token(self, one: AppliedRows[Any, Any], key: Any) -> Any:
        return key.egress_class if one.rows is self.egress.egress else key
