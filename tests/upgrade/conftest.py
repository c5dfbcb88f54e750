"""A lab that an older version has brought up, with an environment of its own.

The older version is commit 727237a, the last one that knew nothing of migrations. ``make upgrade``
runs these tests; installing it takes about a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clustermesh.etcd.auth import NODE, EtcdUser, user_grants
from clustermesh.publish import PREFIXES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lab"))

from running import Lab  # noqa: E402
from versions import Version, former, places_of, second_names, wider  # noqa: E402

#: Ports of a node for one destination, 16,384: a UDP answer holds one for minutes.
BLOCKS = "blockSize: 1024, blocksPerNode: 16"


@dataclass(frozen=True)
class Versions:
    """What the agents of the lab can run."""

    former: Version
    tree: Version
    wider: Version


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """The former commit, this tree, and this tree with another layout."""
    make = tmp_path_factory.mktemp
    return Versions(
        former(make("former")), Version(ROOT, Path(sys.executable)), wider(make("wider"))
    )


@pytest.fixture(scope="session")
def lab(versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A healthy lab of the former version; taken down at the end."""
    name = f"u{os.getpid() % 10_000_000}"
    shape = tmp_path_factory.mktemp("lab") / "topology.yaml"
    text = (versions.former.root / "mesh/lab/topology.yaml").read_text()
    shape.write_text(text.replace("blockSize: 256, blocksPerNode: 4", BLOCKS))
    environment = {
        **os.environ,
        "MESHGATE_LAB": name,
        "MESHGATE_RUN": f"/run/meshgate-{name}",
        "PYTHONPATH": str(ROOT),
    }
    running = Lab(environment)
    try:
        old = {**environment, "PYTHONPATH": str(versions.former.root)}
        up = [*versions.former.meshgate, "lab", "up", "--file", str(shape)]
        built = subprocess.run(up, env=old, capture_output=True, text=True, check=False)
        if built.returncode:
            pytest.exit(f"{built.stdout}{built.stderr}", returncode=1)
        second_names(places_of(running))
        _give_rights(running)
        yield running
    finally:
        running.run("lab", "down", "--force")


def _give_rights(lab: Lab) -> None:
    """What agents of today write, for the former version's users of etcd: one for each cluster.

    An operator gives these rights before the update (docs/upgrade.md).
    """
    for host in ("east-1", "east-2", "west-1", "west-2"):
        cluster = host.partition("-")[0]
        for grant in user_grants(EtcdUser(cluster, NODE, host), PREFIXES):
            if grant.write:
                whole = ("--prefix",) if grant.end else ()
                words = ("role", "grant-permission", *whole, f"{cluster}-agent", "readwrite")
                answer = lab.etcdctl("root", *words, grant.key)
                assert answer.returncode == 0, answer.stdout + answer.stderr
