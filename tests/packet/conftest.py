"""Nodes are loaded once per run of the tests; each test gets them with fresh rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.build import build
from bpf.object import mount_bpffs
from nodes import PLANS, Node, namespace
from os import getpid


@pytest.fixture(scope="session")
def loaded() -> Iterator[dict[str, Node]]:
    build()
    mount_bpffs()
    with namespace() as space:
        nodes: dict[str, Node] = {}
        try:
            for name, plan in PLANS.items():
                directory = Path(f"/sys/fs/bpf/dpw-{getpid()}-{name}")
                nodes[name] = Node(plan, space, directory)
            yield nodes
        finally:
            for node in nodes.values():
                node.close()


@pytest.fixture
def nodes(loaded: dict[str, Node]) -> dict[str, Node]:
    for node in loaded.values():
        node.reset()
    return loaded


@pytest.fixture(params=(4, 6), ids=("IPv4", "IPv6"))
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)
