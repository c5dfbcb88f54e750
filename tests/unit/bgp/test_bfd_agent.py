"""What an agent adds to a datapath that speaks BFD: rows, ends, and words for people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from bgp.bfd import agent as module
from bgp.bfd import maps as entries
from bgp.bfd.agent import ENDING_S, BFDAgent
from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey
from bgp.bfd.shown import PATIENCE_S
from bgp.peer import BFD, PEERS, Advertise, BGPPeer
from mesh.core.model import IP, Node, NodeKey, Selector
from mesh.core.reconcile import Loop
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

ME = NodeKey("east", "east-1")
ROUTER, V4 = ip_address("10.99.0.1"), ip_address("10.99.0.11")
KEY = SessionKey(ROUTER, V4)
_WIDE = ("seen", "since", "detection")
_NARROW = (
    "mine", "state", "their_state", "diagnostic", "their_diagnostic", "downs", "refused", "refusal",
)  # fmt: skip
STATE = np.dtype([(name, "u8") for name in _WIDE] + [(name, "u4") for name in _NARROW])


class Target:
    """A map of rows in memory."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, dict[Any, Any]()

    async def read(self) -> Mapping[Any, Any]:
        return dict(self.rows)

    async def upsert(self, rows: Mapping[Any, Any]) -> dict[Any, Exception]:
        self.rows.update(rows)
        return {}

    async def delete(self, keys: Any) -> dict[Any, Exception]:
        for key in keys:
            self.rows.pop(key, None)
        return {}


class Maps:
    """Those of a datapath that says what the test says."""

    def __init__(self) -> None:
        self.targets: dict[str, Target] = {}
        self.states: dict[int, dict[str, int]] = {}

    def rows(self, name: str, *_: Callable[..., Any]) -> Any:
        return self.targets.setdefault(name, Target(name))

    def lookup(self, _: str, key: object) -> Any:
        value = np.zeros((), STATE)
        for name, number in self.states.get(int(key), {}).items():  # type: ignore[call-overload]
            value[name] = number
        return value

    def capacity(self, _: str) -> int:
        return 256

    def program(self, _: str) -> int:
        return 0


class Kernel:
    """A kernel that knows which routers are neighbours."""

    direct = True

    async def is_on_link(self, _: IP) -> bool:
        return self.direct


def peer(**fields: object) -> BGPPeer:
    one = BGPPeer(
        "router", Selector(), ROUTER, 65000, 65101, (Advertise("podCIDRs"),), bfd=BFD(50),
        origin="router.yaml",
    )  # fmt: skip
    return replace(one, **fields)  # type: ignore[arg-type]


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "call", lambda *_: None)  # no BPF in a unit test
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.sent: list[SessionKey] = []
        monkeypatch.setattr(module.slow, "send", lambda key, _: self.sent.append(key))
        self.now = 1000.0
        self.objects, self.maps, self.kernel = Objects(KINDS.nouns), Maps(), Kernel()
        self.objects[NODES].replace({ME: Node("east", "east-1", (V4,))})
        self.begin()

    def begin(self) -> None:
        """A new agent on the same maps."""
        self.agent = BFDAgent(self.objects, ME, self.kernel, lambda: self.now)
        self.run(self.agent.recover(self.maps))  # type: ignore[arg-type]
        self.loop = Loop()
        self.agent.derive(self.loop)
        self.agent.apply(self.loop, self.maps)  # type: ignore[arg-type]

    def want(self, *peers: BGPPeer) -> None:
        self.objects[PEERS].replace({one.name: one for one in peers})
        self.settle()

    def settle(self) -> None:
        """Derivations and the target, until nothing changes."""
        for _ in range(2):
            self.loop.derive_all()
            for applied in self.loop.applied:
                self.run(applied.round())

    def step(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.run(self.agent._step())  # noqa: SLF001 - one round of the task
        self.settle()

    @property
    def rows(self) -> dict[SessionKey, Session]:
        return self.maps.targets[entries.SESSION_MAP].rows

    def say(self, state: State, **fields: int) -> None:
        row = self.rows[KEY]
        self.maps.states[row.number] = {"mine": row.discriminator, "state": state, **fields}

    def codes(self) -> list[str]:
        return [str(one.code) for one in self.agent.findings()]

    def text(self) -> str:
        return next(one.text for one in self.agent.findings())


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(monkeypatch)
    with made.runner:
        yield made


def test_a_new_agent_takes_the_sessions_over_as_they_stand(rig: Rig) -> None:
    rig.want(peer())
    before = dict(rig.rows)
    assert list(before) == [KEY]
    rig.begin()
    rig.want(peer(bfd=BFD(300)))
    assert rig.rows[KEY] == replace(before[KEY], interval_us=300_000)


def test_a_session_that_is_given_up_ends_before_it_goes(rig: Rig) -> None:
    rig.want(peer())
    number = rig.rows[KEY].number
    rig.want()
    assert rig.rows[KEY].ending
    rig.step(ENDING_S - 1)
    assert rig.rows[KEY].ending
    rig.step(2)
    assert not rig.rows
    assert rig.maps.targets[entries.PATH_MAP].rows == {number: entries.UNKNOWN}
    assert rig.agent.rows() == []


def test_without_the_own_node_object_nothing_changes(rig: Rig) -> None:
    rig.want(peer())
    rig.objects[NODES].replace({})
    rig.settle()
    assert not rig.rows[KEY].ending


def test_slow_packets_go_to_a_passive_router_while_it_is_down(rig: Rig) -> None:
    rig.want(peer())
    rig.step()
    assert not rig.sent
    rig.want(peer(bfd=BFD(50, passive=True)))
    rig.step()
    rig.say(State.UP)
    rig.step()
    rig.step()
    assert rig.sent == [KEY]


def test_what_is_wrong_is_said(rig: Rig) -> None:
    rig.want(peer())
    rig.step()
    assert rig.codes() == []
    rig.step(PATIENCE_S)
    assert rig.codes() == ["B251"]
    assert "nothing heard from 10.99.0.1" in rig.text()
    rig.say(State.UP, detection=150_000_000)
    rig.step()
    assert rig.codes() == []
    rig.say(State.DOWN, detection=150_000_000, diagnostic=1, downs=1, their_state=1)
    rig.step()
    assert rig.codes() == ["B250"]
    assert "nothing was heard for the detection time" in rig.text()
    rig.say(State.DOWN, detection=150_000_000, diagnostic=3, downs=1, their_state=0)
    rig.step()
    assert rig.codes() == ["B251"]
    assert "has switched BFD off" in rig.text()


def test_packets_that_are_refused_are_said_with_the_reason(rig: Rig) -> None:
    rig.want(peer())
    rig.say(State.DOWN, refused=1, refusal=2)
    rig.step()
    rig.say(State.DOWN, refused=3, refusal=2)
    rig.step()
    assert rig.codes() == ["B252"]
    assert "crossed a router" in rig.text()
    rig.say(State.UP, refused=4, refusal=2)
    rig.step()
    assert rig.codes() == []


def test_a_router_behind_another_one_needs_multihop(rig: Rig) -> None:
    rig.kernel.direct = False
    rig.want(peer())
    rig.step()
    assert rig.codes() == ["B253"]
    finding = next(iter(rig.agent.findings()))
    assert (finding.object, finding.field) == ("router.yaml", "spec.bfd.multihop east-1")
    rig.want(peer(bfd=BFD(50, multihop=True)))
    rig.step()
    assert rig.codes() == []


def test_a_row_of_the_command_line(rig: Rig) -> None:
    rig.want(peer())
    rig.say(State.UP, detection=150_000_000, downs=2, refused=1)
    rig.step()
    (row,) = rig.agent.rows()
    assert row | {"since": 0} == {
        "node": "east-1", "peer": ROUTER, "local": V4, "state": "up", "diagnostic": "",
        "interval": "50 ms x 3", "detection": "150 ms", "since": 0, "downs": 2, "refused": 1,
        "reason": "",
    }  # fmt: skip


def test_a_router_that_was_never_heard_has_no_time(rig: Rig) -> None:
    rig.want(peer())
    rig.step()
    (row,) = rig.agent.rows()
    assert (row["state"], row["since"]) == ("down", None)
