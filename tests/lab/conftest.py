"""One lab for all tests of this directory, under a name of its own: a user's lab stays untouched.

With ``MESHGATE_TEST_LAB=1`` the tests take the lab that is up instead.

::

    east-1 east-2 east-3 west-1 west-2 west-3 etcd ── router ── firewall ── legacy
    (agent, speaker; controllers on east-1 and west-1; web-n and client-n on node n)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaking import leaked
from running import LEASE_S, ROOT, SOAK, Lab

from tests.lab.wire import Wire, wired

#: Files that want a healthy lab, and files after which it is none for a minute: their packets are
#: dropped on purpose, and a finding about drops ends with a minute that has fewer. All others come
#: between, as pytest has them.
FIRST = (
    "test_import_firewall.py", "test_store.py", "test_kill.py", "test_no_leak.py",
    "test_hosts.py", "test_objects.py", "test_reachability.py", "test_lab_commands.py",
)  # fmt: skip
LAST = (
    "test_gateway_loss.py", "test_egress_ports.py", "test_forgery.py", "test_wire_identity.py",
    "test_told.py", "test_endpoint.py", "test_taken_away.py", "test_health.py", "test_ended.py",
)  # fmt: skip
#: A fourth node of east, in a copy of the lab's topology.
BEFORE_WEST = "  - name: west\n"
FOURTH = '      - {name: east-4, addresses: [10.99.0.14, "fd99::14"]}\n'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files of this directory into that order; other items stay where they are."""
    places = [at for at, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[at] for at in places), key=lambda item: _rank(item.path.name))
    for at, item in zip(places, ordered, strict=True):
        items[at] = item


def _rank(name: str) -> int:
    """Smaller ones are first."""
    if name in FIRST:
        return FIRST.index(name) - len(FIRST)
    return LAST.index(name) + 1 if name in LAST else 0


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A healthy lab; taken down at the end."""
    if os.environ.get("MESHGATE_TEST_LAB"):
        yield Lab({**os.environ, "PYTHONPATH": str(ROOT)})
        return
    shape = tmp_path_factory.mktemp("lab") / "topology.yaml"
    text = (ROOT / "mesh/lab/topology.yaml").read_text()
    text = text.replace("vrfs: true", "vrfs: false")  # tests of VRFs have their own
    shape.write_text(text.replace("leaseSeconds: 60", f"leaseSeconds: {LEASE_S}"))
    yield from _brought_up(f"t{os.getpid() % 10_000_000}", shape)


@pytest.fixture(scope="module")
def bfd_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """The lab; in a soak one of its own, whose router finds out by BFD in 150 ms.

    That one has a node ``east-4``, which a test makes a third gateway.
    """
    if not SOAK:
        yield request.getfixturevalue("lab")
        return
    shape = tmp_path_factory.mktemp("bfd-lab") / "topology.yaml"
    text = (ROOT / "mesh/lab/topology.yaml").read_text().replace("vrfs: true", "vrfs: false")
    text = text.replace("bfd: true", "bfd: true, bfdInterval: 50")
    shape.write_text(text.replace(BEFORE_WEST, f"{FOURTH}{BEFORE_WEST}"))
    yield from _brought_up(f"d{os.getpid() % 10_000_000}", shape)


@pytest.fixture(scope="session")
def overlay_lab() -> Iterator[Lab]:
    """A second lab, whose fabric knows no pod CIDR: nobody speaks BGP."""
    shape = ROOT / "mesh/lab/topology-overlay.yaml"
    yield from _brought_up(f"o{os.getpid() % 10_000_000}", shape)


@pytest.fixture(scope="module")
def beside_lab() -> Iterator[Lab]:
    """A third lab: one cluster is beside the reference plugin bridge."""
    shape = ROOT / "mesh/lab/topology-beside.yaml"
    yield from _brought_up(f"b{os.getpid() % 10_000_000}", shape)


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Wire]:
    """Two nodes without agents (``wire.py``), for all tests of programs on real devices."""
    with wired() as wire:
        yield wire


@pytest.fixture
def wire(two_nodes: Wire) -> Wire:
    """The same, with the rows of its picture and nothing else."""
    for node in two_nodes.nodes.values():
        node.reset()
    return two_nodes


@pytest.fixture(params=(4, 6), ids=("IPv4", "IPv6"))
def family(request: pytest.FixtureRequest) -> int:
    """Each family in turn."""
    return int(request.param)


def _brought_up(name: str, shape: Path) -> Iterator[Lab]:
    environment = {
        **os.environ,
        "MESHGATE_LAB": name,
        "MESHGATE_RUN": f"/run/meshgate-{name}",
        "PYTHONPATH": str(ROOT),
    }
    running = Lab(environment)
    up = [sys.executable, "-m", "mesh.cli", "lab", "up", "--file", str(shape)]
    try:
        built = subprocess.run(up, env=environment, capture_output=True, text=True, check=False)
        if built.returncode:
            pytest.exit(f"{built.stdout}{built.stderr}{_logs(environment)}", returncode=1)
        yield running
        assert leaked(running) == {}, "packets of covered pods have left with another source"
    finally:
        running.run("lab", "down", "--force")


def _logs(environment: dict[str, str]) -> str:
    """The last lines of every process's log."""
    parts = []
    for path in sorted(Path(environment["MESHGATE_RUN"]).glob("*/*.log")):
        lines = path.read_text(errors="replace").splitlines()[-5:]
        parts += [f"--- {path}", *lines]
    return "\n".join(parts)
