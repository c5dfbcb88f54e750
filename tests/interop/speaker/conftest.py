"""The router under test, and what its kernel loses."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bgp.routers.frr import Neighbor, router_config
from tests.interop.speaker.frr_router import ROUTER, Router, network
from tests.interop.speaker.node import Node


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    directory = Path(tempfile.mkdtemp(prefix="bgpt-", dir="/run"))
    directory.chmod(0o755)  # FRR is another user
    with network():
        neighbors = [Neighbor(ip_address(a), 65101) for a in ("10.99.0.11", "fd99::11")]
        frr = Router(directory / "frr", router_config(65000, ip_address("10.99.0.1"), neighbors))
        try:
            yield frr
        finally:
            frr.stop()
            shutil.rmtree(directory)


@pytest.fixture
def deleted(router: Router, tmp_path: Path) -> Iterator[Any]:
    """``ip monitor route`` in the router: the lines with Deleted so far."""
    assert router.vty
    path = tmp_path / "monitor"
    with path.open("wb") as out:
        command = ["ip", "netns", "exec", ROUTER, "ip", "monitor", "route"]
        monitor = subprocess.Popen(command, stdout=out)
    yield lambda: [
        line.split()[1] for line in path.read_text().splitlines() if line.startswith("Deleted")
    ]
    monitor.kill()
    monitor.wait()


@pytest.fixture
def node(router: Router, tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.stop(router)
