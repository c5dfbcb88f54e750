"""Places of a test's own: a bpffs directory, network namespaces, a cgroup; removed afterwards."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import getpid
from pathlib import Path

import pytest

from bpf import netns
from bpf.build import build
from bpf.netns import enter
from bpf.object import BPFFS, Object, mount_bpffs
from tests.packet.nodes import PLANS, Node, pinned_in
from tests.packet.nodes import namespace as node_space

HERE = Path(__file__).parent
_numbers = itertools.count()


def unique() -> str:
    """A name that no other test and no other run uses, fit for bpffs and devices."""
    return f"mgt{os.getpid()}_{next(_numbers)}"


def ip(*words: str) -> None:
    """Run the ip command; what it says goes to the test's output."""
    subprocess.run(["ip", *words], check=True)


@pytest.fixture(scope="session")
def bpffs() -> Path:
    """The machine's bpffs; mounted when missing and left, since others may pin there by then."""
    mount_bpffs()
    return BPFFS


@pytest.fixture
def pins(bpffs: Path) -> Iterator[Path]:
    """A directory in bpffs."""
    directory = bpffs / unique()
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@contextmanager
def made_namespaces() -> Iterator[Callable[[], Path]]:
    """Makes network namespaces: a function that returns the path of a new one, loopback up."""
    made: list[str] = []

    def make() -> Path:
        made.append(unique())
        ip("netns", "add", made[-1])
        ip("-n", made[-1], "link", "set", "lo", "up")
        return Path("/run/netns") / made[-1]

    yield make
    for name in made:
        ip("netns", "del", name)


@pytest.fixture
def namespaces() -> Iterator[Callable[[], Path]]:
    """The same for one test."""
    with made_namespaces() as make:
        yield make


@pytest.fixture
def namespace(namespaces: Callable[[], Path]) -> Path:
    """One network namespace with a veth pair, left and right, both up."""
    path = namespaces()
    veth(path)
    return path


def veth(namespace: Path) -> None:
    """The pair of ``namespace``, which sends nothing of its own."""
    ip("-n", namespace.name, "link", "add", "left", "type", "veth", "peer", "name", "right")
    for device in ("left", "right"):
        with enter(namespace):
            Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
        ip("-n", namespace.name, "link", "set", device, "up")


def cgroup_mount() -> Path:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(place)
    pytest.skip("no cgroup2 mount")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup2 directory of our own; children must have ended by the end of the test."""
    directory = cgroup_mount() / unique()
    directory.mkdir()
    yield directory
    with suppress(FileNotFoundError):
        directory.rmdir()


@pytest.fixture(scope="session")
def door_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the objects of this directory's sources are."""
    objects = tmp_path_factory.mktemp("objects")
    build(HERE, objects)
    return objects


@pytest.fixture
def door(door_objects: Path) -> Iterator[Object]:
    """``door.bpf.c``, loaded and not pinned."""
    with Object.open(door_objects / "door.o") as opened:
        opened.load()
        yield opened


@pytest.fixture(scope="session")
def loaded() -> Iterator[dict[str, Node]]:
    build()
    mount_bpffs()
    with ExitStack() as stack:
        space = stack.enter_context(node_space())
        nodes: dict[str, Node] = {}
        for name, plan in PLANS.items():
            directory = stack.enter_context(pinned_in(f"dpw-{getpid()}-{name}"))
            nodes[name] = Node(plan, space, directory)
            stack.callback(nodes[name].close)
        yield nodes


@pytest.fixture
def nodes(loaded: dict[str, Node]) -> Iterator[dict[str, Node]]:
    for node in loaded.values():
        node.reset()
    with netns.enter(loaded["a"].space):
        yield loaded


@pytest.fixture(params=(4, 6), ids=("IPv4", "IPv6"))
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)
