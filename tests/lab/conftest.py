"""One lab for all tests of this directory, under a name of its own: a user's lab stays untouched.

With ``MESHGATE_TEST_LAB=1`` the tests take the lab that is up instead.

::

    east-1 east-2 west-1 west-2 etcd ── router ── firewall ── legacy
    (agent, speaker; controllers on east-1 and west-1; web-n and client-n on node n)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import LEASE_S, ROOT, Lab

from tests.lab.wire import Wire, wired


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A healthy lab; taken down at the end."""
    if os.environ.get("MESHGATE_TEST_LAB"):
        yield Lab({**os.environ, "PYTHONPATH": str(ROOT)})
        return
    shape = tmp_path_factory.mktemp("lab") / "topology.yaml"
    text = (ROOT / "mesh/lab/topology.yaml").read_text()
    shape.write_text(text.replace("leaseSeconds: 60", f"leaseSeconds: {LEASE_S}"))
    yield from _brought_up(f"t{os.getpid() % 10_000_000}", shape)


@pytest.fixture(scope="module")
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
    finally:
        running.run("lab", "down", "--force")


def _logs(environment: dict[str, str]) -> str:
    """The last lines of every process's log."""
    parts = []
    for path in sorted(Path(environment["MESHGATE_RUN"]).glob("*/*.log")):
        lines = path.read_text(errors="replace").splitlines()[-5:]
        parts += [f"--- {path}", *lines]
    return "\n".join(parts)
