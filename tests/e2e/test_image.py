"""The image of ``make image``: unpacked as a runtime would, and run as its own root."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from deploy.image.__main__ import OUT
from deploy.image.system import PLACE, ROOT, USERS

#: Everything that a container of the chart starts.
MODULES = ("mesh.agent", "mesh.controller", "mesh.speaker", "mesh.install.pod",
           "clustermesh.issuer", "bgp.exabgp.launcher", "mesh.objects.crds",
           "mesh.k8s.source")  # fmt: skip

#: Python says of each module whether its code comes from the source or from byte code.
_FROM_SOURCE = """python3 -I -v -c "$1" 2>&1 | grep "^# code object from .*[.]py'$" || true"""


def blob(tar: tarfile.TarFile, digest: str) -> bytes:
    member = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
    assert member
    content = member.read()
    assert digest == f"sha256:{sha256(content).hexdigest()}"
    return content


def named(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member
    return json.loads(member.read())


@pytest.fixture(scope="module")
def image() -> Iterator[tarfile.TarFile]:
    subprocess.run([sys.executable, "-m", "deploy.image"], cwd=ROOT, check=True)
    with tarfile.open(OUT) as tar:
        yield tar


@pytest.fixture(scope="module")
def manifest(image: tarfile.TarFile) -> Any:
    (described,) = named(image, "index.json")["manifests"]
    return json.loads(blob(image, described["digest"]))


@pytest.fixture(scope="module")
def root(image: tarfile.TarFile, manifest: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("root")
    for layer in manifest["layers"]:
        unpack = ["tar", "--extract", "--gzip", "--same-permissions", "--directory", str(place)]
        subprocess.run(unpack, input=blob(image, layer["digest"]), check=True)
    return place


def inside(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["chroot", root, *words],
        env={"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_archive_says_what_a_runtime_asks(image: tarfile.TarFile, manifest: Any) -> None:
    assert named(image, "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    (described,) = named(image, "index.json")["manifests"]
    names = described["annotations"]
    assert names["io.containerd.image.name"] == "docker.io/library/meshgate:0.1.0"
    config = json.loads(blob(image, manifest["config"]["digest"]))
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 2


def test_the_command_runs_with_everything_that_it_imports(root: Path) -> None:
    assert inside(root, "meshgate", "--version") == "meshgate 0.1.0\n"
    inside(root, "python3", "-I", "-c", f"import {', '.join(MODULES)}")
    rendered = inside(root, "meshgate", "install", "--dry-run", "--set", "cluster.name=east")
    assert "kind: DaemonSet" in rendered
    for words in (("etcd", "--version"), ("nft", "--version"), ("ss", "-V"), ("mount", "-V")):
        assert inside(root, *words)


def test_no_start_compiles_what_it_imports(root: Path) -> None:
    """Nothing is written in a container, and every file is as old as the epoch."""
    words = f"import {', '.join(MODULES)}"
    assert inside(root, "sh", "-c", _FROM_SOURCE, "sh", words) == ""


def test_a_network_namespace_has_the_name_that_containerd_gives(root: Path) -> None:
    assert inside(root, "realpath", "/var/run/netns") == "/run/netns\n"


def test_users_are_those_of_the_chart(root: Path) -> None:
    for name, number in USERS.items():
        assert inside(root, "id", "-u", name) == f"{number}\n"


def test_it_has_programs_and_no_build_tools(root: Path) -> None:
    objects = {path.name for path in (root / PLACE / "bpf/obj").glob("*.o")}
    assert objects == {"pod.o", "uplink.o", "sock.o", "sweep.o"}
    for name in ("gcc", "clang", "pip", "apt-get", "dpkg"):
        assert not (root / "usr/bin" / name).exists()
    assert not list(root.glob("usr/share/python-wheels/*"))
    assert not list(root.glob("**/__pycache__/*.pyo"))


def test_nobody_may_write_what_runs(root: Path) -> None:
    loose = [
        path
        for path in (root / "usr").rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert [str(path) for path in loose if path.stat().st_mode & 0o002] == []


def test_the_probe_asks_for_an_answer(root: Path, tmp_path: Path) -> None:
    """A socket that is open and says nothing does not pass."""
    probe = [sys.executable, "-IS", str(root / "usr/bin/meshgate-probe")]
    assert failed([*probe, str(tmp_path / "none.sock")]).endswith("No such file or directory\n")


def failed(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr
