"""A layout changes under traffic: connections, ports and rows go over, whatever is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpf import links, netns
from bpf.maps import Map
from bpf.migrate import Declared, RefusedError
from bpf.object import BPFFS, Generation
from mesh.core.strict import convert
from mesh.datapath import migrate
from mesh.datapath.hooks import GUARD, GUARD_PROGRAM
from mesh.datapath.migrate import Migration
from mesh.datapath.settings import Size
from mesh.datapath.steps import ORDER, Step, Way
from tests.packet.builds import DECLARED, FORMER, WIDER, edited, of_commit
from tests.packet.live import Flow, Live, Plain
from tests.packet.nodes import BLOCKS, EGRESS, OBJECTS, PLANS, Node, addr, unpinned

NEWEST = (
    "conntrack.h",
    "	__u32 opened; /* first",
    "	__u64 newest;\n	__u32 opened; /* first",
)
NODES = ("overlay.h", "	__be32 next_hop; /*", "	__u32 rank;\n	__be32 next_hop; /*")
AGENT_MAPS = (
    "mg_address", "mg_addr_cidr", "mg_node", "mg_pod_addr", "mg_egress", "mg_egress_addr",
    "mg_gateway", "mg_block", "mg_own_block", "mg_service_addr", "mg_backend_addr",
)  # fmt: skip
#: The way that each pair of builds takes.
FROM_TO = {
    Way.TO_NEW: ("former", "wider"),
    Way.FROM_OLD: ("wider", "former"),
    Way.PLAIN: ("tree", "nodes"),
}
STEPS = [
    pytest.param(way, step, id=f"{way.name}-{step.name}")
    for way, steps in ORDER.items()
    for step in steps
]


@dataclass(frozen=True)
class Builds:
    """Objects with different layouts, by name."""

    objects: dict[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.objects[name]


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    make = tmp_path_factory.mktemp
    return Builds(
        {
            "tree": OBJECTS,
            "former": of_commit(make("former"), FORMER),
            "wider": edited(make("wider"), WIDER),
            "newest": edited(make("newest"), [*WIDER, NEWEST]),
            "nodes": edited(make("nodes"), [NODES]),
        }
    )


@pytest.fixture
def live(loaded: dict[str, Node]) -> Iterator[Live]:
    directory = BPFFS / f"dpw-{getpid()}-live"
    directory.mkdir()
    node = Live(loaded["a"].space, directory)
    try:
        with netns.enter(node.space):
            yield node
    finally:
        node.close()
        unpinned(directory)


class Traffic:
    """Connections of every kind that go on, and new ones at each call."""

    def __init__(self, node: Live) -> None:
        self.node = node
        self.flows: list[Flow | Plain] = []
        self._next = 20000

    def port(self) -> int:
        """A port of a pod that was never used."""
        self._next += 1
        return self._next

    def open(self) -> None:
        """One connection of each kind, which stays."""
        for family in (4, 6):
            self.flows.append(Flow(self.node, family, self.port()).open())
            self.flows.append(Flow(self.node, family, self.port(), tcp=True).open())
            self.flows.append(Plain(self.node, family, self.port()).open())

    def short(self, family: int) -> Flow:
        """A connection that is closed and opened again on the same tuple."""
        flow = Flow(self.node, family, self.port(), tcp=True).open()
        flow.end()
        return flow.open()

    def turn(self) -> None:
        """Old ones go on, one is closed and comes again, new ones come."""
        for flow in self.flows:
            flow.go_on()
        self.flows += [self.short(4), self.short(6)]
        self.open()
        assert self.node.stolen() == []


#: Rows of the picture in the layout of a build, by its folder. Each load of a build takes half a
#: second of CPU, so only the first test of a build lets them come over from this tree's layout.
_rows: dict[Path, dict[str, tuple[Any, Any]]] = {}


def begin(live: Live, objects: Path) -> Traffic:
    """Traffic on a node that runs a build; its rows come over from this tree's."""
    if objects in _rows:
        live.start(objects, DECLARED)
        for name, (keys, values) in _rows[objects].items():
            live.maps[name].update(keys, values)
    else:
        live.start(OBJECTS, DECLARED)
        live.reset()
        live.start(objects, DECLARED)
        names = live.maps.keys() & {*AGENT_MAPS, "mg_device"}
        found = {name: live.maps[name].dump() for name in names}
        _rows[objects] = {name: rows for name, rows in found.items() if len(rows[0])}
    traffic = Traffic(live)
    traffic.turn()
    return traffic


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name)
def test_traffic_goes_on_between_the_steps(live: Live, builds: Builds, way: Way) -> None:
    old, new = FROM_TO[way]
    traffic = begin(live, builds[old])
    migration = live.begin(builds[new], DECLARED)
    assert migration.marker.way is way
    traffic.turn()
    while migration.step():
        traffic.turn()
    live.look()
    traffic.turn()
    assert not (live.directory / migrate.NEXT).exists()
    live.start(builds[new], DECLARED)
    assert live.adopted


@pytest.mark.parametrize(("way", "step"), STEPS)
def test_an_agent_that_is_killed_at_a_step_is_finished_by_the_next(
    live: Live, builds: Builds, way: Way, step: Step
) -> None:
    """Killed when the step is done and the marker does not say so yet."""
    old, new = FROM_TO[way]
    traffic = begin(live, builds[old])
    migration = live.begin(builds[new], DECLARED)
    while migration.marker.begun is not step:
        migration.step()
        traffic.turn()
    migration.do()
    live.look()
    traffic.turn()
    live.start(builds[new], DECLARED)
    traffic.turn()
    assert not (live.directory / migrate.NEXT).exists()
    live.start(builds[new], DECLARED)
    assert live.adopted


@pytest.mark.parametrize("step", ORDER[Way.TO_NEW], ids=lambda step: step.name)
def test_another_generation_may_follow_at_any_step(live: Live, builds: Builds, step: Step) -> None:
    traffic = begin(live, builds["former"])
    migration = live.begin(builds["wider"], DECLARED)
    while migration.marker.begun is not step:
        migration.step()
    live.look()
    live.start(builds["newest"], DECLARED)
    traffic.turn()
    assert "newest" in (live.maps["mg_ct_v4"].value.names or ())


def test_connections_that_open_and_close_meanwhile_go_over(live: Live, builds: Builds) -> None:
    """Packets at every moment of a migration there and of one back."""
    traffic = begin(live, builds["former"])
    for objects in (builds["wider"], builds["former"]):
        migration = live.begin(objects, DECLARED)
        turned = threading.Event()
        thread = threading.Thread(target=_run_beside, args=(migration, turned))
        thread.start()
        turns = 0
        while thread.is_alive():
            _few_packets(traffic, turns)
            turns += 1
            turned.set()
        thread.join()
        live.look()
        assert turns > 3
        assert not (live.directory / migrate.NEXT).exists()
        traffic.turn()


def _run_beside(migration: Migration, turned: threading.Event) -> None:
    """Steps at any moment of a turn, and a whole turn at least between two of them."""
    while migration.step():
        for _ in range(2):  # the first one may have begun before the step
            turned.clear()
            turned.wait(30)


def _few_packets(traffic: Traffic, number: int) -> None:
    flows = traffic.flows
    for flow in flows[number % 5 :: 5]:
        flow.go_on()
    traffic.flows.append(traffic.short(4 if number % 2 else 6))
    traffic.open()


def own_blocks(map_: Map) -> dict[int, set[int]]:
    """Block numbers by family."""
    found = {}
    for family in (4, 6):
        row = map_.lookup(addr(EGRESS[family]))
        assert row is not None
        found[family] = set(row["number"][: row["count"]].tolist())
    return found


def test_no_block_belongs_to_both_while_two_layouts_live(live: Live, builds: Builds) -> None:
    begin(live, builds["former"])
    whole = {family: set(BLOCKS["a"]) for family in (4, 6)}
    migration = live.begin(builds["wider"], DECLARED)
    while migration.step():
        with Map.open_pinned(live.directory / "mg_own_block") as old:
            ours = own_blocks(old)
        if migration.marker.begun in (Step.SPLIT, Step.CLEARED, Step.PLACED):
            continue
        with Map.open_pinned(live.directory / migrate.NEXT / "mg_own_block") as new:
            for family, numbers in own_blocks(new).items():
                assert migration.marker.begun is Step.JOINED or not numbers & ours[family]
                assert numbers | ours[family] == whole[family]
    with Map.open_pinned(live.directory / "mg_own_block") as map_:
        assert own_blocks(map_) == whole


def test_an_agent_of_the_former_commit_may_take_the_links_back(live: Live, builds: Builds) -> None:
    """It knows nothing of the new pins: its own maps count again."""
    traffic = begin(live, builds["former"])
    migration = live.begin(builds["wider"], DECLARED)
    while migration.marker.begun is not Step.SHARED:
        migration.step()
    live.look()
    for path in sorted((live.directory / "links").iterdir()):
        name = migrate.program_of(path.name)
        assert name
        with live.pinned_program(live.directory / "programs" / name) as program:
            links.change(program, path)
    # An agent would write its own rows again here.
    traffic.turn()
    live.start(builds["wider"], DECLARED)
    traffic.turn()


def test_the_guard_goes_before_programs_that_do_not_vouch(live: Live, builds: Builds) -> None:
    """It would drop all that programs of before it send through the overlay."""
    live.start(OBJECTS, DECLARED)
    pin = live.directory / "links" / GUARD
    for objects, stays in ((builds["wider"], True), (builds["former"], False)):
        with (
            live.pinned_program(live.directory / "programs" / GUARD_PROGRAM) as program,
            netns.enter(live.space),
        ):
            links.tcx(program, "dpwup", pin, ingress=False)
        live.start(objects, DECLARED)
        assert pin.exists() is stays


def agent_rows(live: Live) -> dict[str, set[tuple[bytes, bytes]]]:
    """What an agent has written, by map."""
    found = {}
    for name in AGENT_MAPS:
        keys, values = live.maps[name].dump()
        found[name] = {(k.tobytes(), v.tobytes()) for k, v in zip(keys, values, strict=True)}
    return found


def test_the_agents_rows_are_the_same_after_the_former_layout(live: Live, builds: Builds) -> None:
    live.start(OBJECTS, DECLARED)
    live.reset()
    for name in PLANS:
        for family in (4, 6):
            live.gateway(family, name, sends=name == "g", accepts=name == "g")
    before = agent_rows(live)
    for objects in (builds["former"], OBJECTS):
        live.start(objects, DECLARED)
    after = agent_rows(live)
    members = {"mg_gateway": {row for row in before["mg_gateway"] if any(row[1])}}
    assert after == before | members


@pytest.mark.parametrize("name", ["mg_srv6_domain", "mg_sid_locator", "mg_sid"])
def test_what_nodes_have_without_a_vrf_does_not_hold_up_the_way_back(
    live: Live, builds: Builds, name: str
) -> None:
    """Nodes with IPv6 addresses or a locator have rows there; programs of before read none."""
    live.start(OBJECTS, DECLARED)
    map_ = live.maps[name]
    map_.update(np.zeros(1, map_.key), np.zeros(1, map_.value))
    live.start(builds["former"], DECLARED)
    assert not (live.directory / name).exists()


def refusals(
    live: Live, objects: Path, declared: Declared = (), limits: Iterable[Size] = ()
) -> list[str]:
    """Why a build cannot follow; nothing has changed then."""
    before = sorted(str(path) for path in live.directory.rglob("*"))
    generation = Generation.read(live.directory)
    with pytest.raises(RefusedError) as caught:
        live.start(objects, declared, limits)
    assert sorted(str(path) for path in live.directory.rglob("*")) == before
    assert Generation.read(live.directory) == generation
    return caught.value.reasons


def test_a_field_without_a_successor_is_named(live: Live, builds: Builds, tmp_path: Path) -> None:
    traffic = begin(live, builds["former"])
    field = "	__u32 cluster;\n};\n\nstruct pod {", "};\n\nstruct pod {"
    use = ", .cluster = cidr->cluster", ""
    objects = edited(tmp_path, [("addresses.h", *field), ("addresses.h", *use)])
    assert refusals(live, objects, DECLARED) == [
        "map mg_addr_cidr: field value.cluster has no successor and no converter"
    ]
    traffic.turn()


def sized(family: int, size: str) -> tuple[str, str, str]:
    """Another size of the map of connections."""
    key = {4: "tuple_v4", 6: "tuple"}[family]
    text = f"mg_ct_v{family}, struct {key}, struct connection, "
    return "conntrack.h", f"{text}CONNECTIONS, 0", f"{text}{size}"


def test_a_size_below_the_live_entries_is_named(live: Live, builds: Builds, tmp_path: Path) -> None:
    traffic = begin(live, builds["former"])
    (reason,) = refusals(live, edited(tmp_path, [sized(6, "2, 0")]), DECLARED)
    assert reason.startswith("map mg_ct_v6: ")
    assert reason.endswith(" live entries, room for 2")
    traffic.turn()


@pytest.mark.parametrize("name", ["mg_address", "mg_egress", "mg_service_addr"])
def test_a_limit_below_the_live_entries_is_named(live: Live, name: str) -> None:
    """A size of the agent's configuration is refused before anything changes; one above is not."""
    traffic = begin(live, OBJECTS)
    map_ = live.maps[name]
    before = len(map_.dump()[0])
    for number in range(40):
        key, value = (np.zeros((), dtype) for dtype in (map_.key, map_.value))
        if name == "mg_egress":
            key["prefix"], key["egress_class"] = 32, 100 + number
        else:
            (key if name == "mg_address" else key["address"])["w"][3] = number + 1
        map_.update_one(key.tobytes(), value.tobytes())
    live_entries = before + 40
    few = convert([{"map": name, "entries": 32}], tuple[Size, ...])
    assert refusals(live, OBJECTS, DECLARED, few) == [
        f"map {name}: {live_entries} live entries, room for 32"
    ]
    assert live.maps[name].max_entries > 32
    traffic.turn()
    live.start(OBJECTS, DECLARED, [Size(map=name, entries=live_entries)])
    assert (live.maps[name].max_entries, len(live.maps[name].dump()[0])) == (live_entries,) * 2
    traffic.turn()


def test_another_size_is_a_migration(live: Live, builds: Builds, tmp_path: Path) -> None:
    traffic = begin(live, builds["former"])
    live.start(edited(tmp_path, [sized(6, "70000, BPF_F_NO_PREALLOC")]), DECLARED)
    assert live.maps["mg_ct_v6"].max_entries == 70000
    traffic.turn()


def test_a_full_map_goes_over(live: Live, tmp_path: Path) -> None:
    few = [sized(4, "64, 0"), sized(6, "64, 0")]
    live.start(edited(tmp_path / "few", few))
    live.reset()
    flows = []
    for number in range(64):
        try:
            flows.append(Flow(live, 4, 1000 + number).open())
        except AssertionError:
            break
    assert len(flows) >= 48
    live.start(edited(tmp_path / "wide", [*few, *WIDER]), DECLARED)
    for flow in flows:
        flow.go_on()
