"""Places of these tests, removed afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.bfd.rig import Bfdd, Bird, Datapath, network


@pytest.fixture(scope="module")
def rig() -> Iterator[Datapath]:
    with network():
        datapath = Datapath()
        try:
            yield datapath
        finally:
            datapath.close()


@pytest.fixture
def datapath(rig: Datapath) -> Iterator[Datapath]:
    yield rig
    rig.forget()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that FRR's user can read."""
    directory = Path(tempfile.mkdtemp(prefix="bfdt-", dir="/run"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def bfdd(place: Path) -> Iterator[Callable[[str], Bfdd]]:
    """Starts FRR's bfdd with a configuration."""
    with ExitStack() as stack:

        def start(config: str) -> Bfdd:
            made = Bfdd(place / "frr", config)
            stack.callback(made.stop)
            return made

        yield start


@pytest.fixture
def bird(place: Path) -> Iterator[Callable[[str], Bird]]:
    """Starts BIRD with a configuration."""
    with ExitStack() as stack:

        def start(config: str) -> Bird:
            made = Bird(place / "bird", config)
            stack.callback(made.stop)
            return made

        yield start
