"""Random histories of a folder: a look at what changed gives what one look at everything gives."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.objects.folder import Folder
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import PODS
from mesh.objects.manifests import Manifests

NAMES = ("a.yaml", "b.yaml", "c.yml", "d.json", "e.yaml", "sub/a.yaml", "sub/below/a.yaml")
STEPS = 60


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", "labels": {"app": name}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, **spec},
    }


def policy(kind: str, version: str, name: str, address: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selectors": [{"podSelector": {"matchLabels": {"app": "p1"}}}],
        "destinationCIDRs": ["192.0.2.0/24"],
    }
    if kind == "EgressPolicy":
        spec |= {"addresses": [address], "gateways": {"nodeSelector": {}}}
    else:
        spec["egressGateway"] = {"nodeSelector": {}, "egressIP": address}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


class History:
    """A folder that somebody changes at random, and the process that has watched from the start."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.folder = root / "manifests"
        self.state = root / "state"
        (self.folder / "sub/below").mkdir(parents=True)
        self.manifests = Manifests(self.folder, "east", self.state, kinds=KINDS)

    def document(self) -> Any:
        choose = self.random.choice
        name, node = f"p{self.random.randrange(6)}", f"east-{self.random.randrange(3)}"
        both = [
            ("EgressPolicy", "meshgate.io/v1alpha1"),
            ("CiliumEgressGatewayPolicy", "cilium.io/v2"),
        ]
        kinds = [
            pod(name, node),
            pod(name, node),
            pod(name, node, serviceAccountName="web"),
            pod(name, node, containers=[{"ports": [{"containerPort": 80, "hostPort": 80}]}]),
            pod(name, node, hostNetwork=True),
            pod(name, ""),
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}},
            policy(*choose(both), choose(["erp", "crm"]), f"198.51.100.{self.random.randrange(9)}"),
            {"apiVersion": "v1", "kind": "List", "items": [pod(name, node), pod("p9", node)]},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        ]
        if self.random.random() < 0.85:
            return choose(kinds)
        wrong = pod(name, node)
        wrong["spec"]["nodeName"] = 5
        unknown = {"apiVersion": "v1", "kind": "Pood", "metadata": {"name": name}}
        return choose([wrong, unknown, {"kind": "Pod"}, None, 7])

    def text(self, name: str) -> str:
        if self.random.random() < 0.1:
            return self.random.choice(["", "a: [1\n", "# nothing\n", "%TAG ! x\n---\n"])
        documents = [self.document() for _ in range(self.random.randrange(1, 5))]
        if name.endswith(".json"):
            return json.dumps(documents[0])
        return "---\n".join(f"{json.dumps(document)}\n" for document in documents)

    def edited(self, path: Path) -> str:
        """The file with one part of its text changed, or with the parts in another order."""
        parts = path.read_text().split("---\n")
        if self.random.random() < 0.5:
            self.random.shuffle(parts)
        else:
            parts[self.random.randrange(len(parts))] = f"{json.dumps(self.document())}\n"
        return "---\n".join(parts)

    def change(self) -> None:
        """Write, edit, remove or rename a file."""
        path = self.folder / self.random.choice(NAMES)
        act = self.random.choice(["write", "replace", "edit", "edit", "remove", "rename", "touch"])
        if act in {"write", "replace"} or (act == "edit" and path.suffix == ".json"):
            self.put(path, self.text(path.name), in_place=act == "write")
        elif not path.exists():
            return
        elif act == "edit":
            self.put(path, self.edited(path), in_place=self.random.random() < 0.5)
        elif act == "remove":
            path.unlink()
        elif act == "rename" and path.suffix != ".json":
            path.rename(self.folder / "f.yaml")
        elif act == "touch":
            os.utime(path, (time.time() - 30, time.time() - 30))

    def put(self, path: Path, text: str, *, in_place: bool) -> None:
        target = path if in_place else path.with_name(f".{path.name}")
        target.write_text(text)
        then = time.time() - self.random.uniform(60, 100)
        os.utime(target, (then, then))
        target.rename(path)

    def look(self) -> None:
        """Two looks: the first one finds what is gone, the second one is sure of it."""
        self.manifests.scan()
        self.manifests.scan()

    def from_the_start(self) -> Manifests:
        """A process that sees the folder for the first time, with a copy of the state."""
        copy = self.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if self.state.exists():
            shutil.copytree(self.state, copy)
        found = Manifests(self.folder, "east", copy, kinds=KINDS)
        found.scan()
        found.scan()
        return found


def tables(manifests: Manifests) -> Iterator[tuple[str, dict[Any, Any]]]:
    for noun, table in manifests.objects.tables().items():
        yield noun, dict(table.rows)
    yield "finding", dict(manifests.objects.findings.rows)


@pytest.mark.parametrize("seed", range(8))
def test_what_changed_gives_what_everything_gives(tmp_path: Path, seed: int) -> None:
    """After each step a process that starts now has the same rows and the same findings."""
    history = History(tmp_path, seed)
    for step in range(STEPS):
        for _ in range(history.random.randrange(1, 4)):
            history.change()
        history.look()
        if not history.manifests.deferred:
            whole = dict(tables(history.from_the_start()))
            assert dict(tables(history.manifests)) == whole, f"step {step}"


@pytest.mark.parametrize("seed", range(4))
def test_an_object_is_never_away_while_a_file_has_it(tmp_path: Path, seed: int) -> None:
    """One pod moves between files at random, one look after each move."""
    history = History(tmp_path, seed)
    body = json.dumps(pod("p1", "east-1")) + "\n"
    places = {"a.yaml"}
    history.put(history.folder / "a.yaml", body, in_place=True)
    history.look()
    for _ in range(STEPS):
        new = history.random.choice(("a.yaml", "b.yaml", "c.yml"))
        history.put(history.folder / new, body, in_place=False)
        for old in places - {new}:
            (history.folder / old).unlink()
        places = {new}
        history.manifests.scan()
        assert [key.name for key in history.manifests.objects[PODS].rows] == ["p1"]


# A folder of more files than a look examines


class Many:
    """A folder of twenty files, of which each look examines two."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for number in range(20):
            self.write(f"{number:02}.yaml")
        os.utime(root, (1.5, 1.5))
        self.folder = Folder(root, share=2)
        self.read(self.folder.look().read)
        self.folder.look()

    def write(self, name: str, text: str = "x") -> None:
        fresh = self.root / f".{name}"
        fresh.write_text(text)
        os.utime(fresh, (5, 5))
        fresh.rename(self.root / name)

    def read(self, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            self.folder.done(name)
        return names

    def looks_until(self, name: str) -> int:
        for number in range(1, 20):
            if name in self.read(self.folder.look().read):
                return number
        return 0


def test_a_first_look_reads_all_files(tmp_path: Path) -> None:
    many = Many(tmp_path)
    assert not many.folder.waiting()


def test_a_replaced_or_new_file_is_read_at_the_next_look(tmp_path: Path) -> None:
    many = Many(tmp_path)
    for name in ("07.yaml", "13.yaml", "new.yaml"):
        many.write(name, "other")
        assert many.looks_until(name) == 1


def test_a_removed_file_is_gone_at_the_second_look(tmp_path: Path) -> None:
    many = Many(tmp_path)
    (tmp_path / "07.yaml").unlink()
    assert many.folder.look().gone == ()
    assert many.folder.missing == {"07.yaml"}
    assert many.folder.look().gone == ("07.yaml",)
    assert not many.folder.waiting()


def test_names_of_a_subfolder_come_and_go_as_fast(tmp_path: Path) -> None:
    """Its own times say so: those of the folder above do not change."""
    (tmp_path / "sub/below").mkdir(parents=True)
    for name in ("sub", "sub/below"):
        os.utime(tmp_path / name, (1.5, 1.5))
    many = Many(tmp_path)
    fresh = tmp_path / "sub/below/.new"
    fresh.write_text("x")
    os.utime(fresh, (5, 5))
    fresh.rename(tmp_path / "sub/below/new.yaml")
    assert many.looks_until("sub/below/new.yaml") == 1
    os.utime(tmp_path / "sub/below", (2.5, 2.5))
    many.folder.look()
    (tmp_path / "sub/below/new.yaml").unlink()
    assert many.folder.look().gone == ()
    assert many.folder.look().gone == ("sub/below/new.yaml",)


def test_a_file_that_was_edited_in_place_is_read_within_a_round(tmp_path: Path) -> None:
    many = Many(tmp_path)
    (tmp_path / "07.yaml").write_text("longer")
    os.utime(tmp_path / "07.yaml", (6, 6))
    assert 1 <= many.looks_until("07.yaml") <= 11


def test_a_link_is_followed_when_the_folder_changes(tmp_path: Path) -> None:
    """A mounted ConfigMap: the entry stays, and leads to another file."""
    many = Many(tmp_path)
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "z.yaml").write_text(name * int(name[-1]))
        os.utime(tmp_path / name / "z.yaml", (7, 7))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "z.yaml").symlink_to("..data/z.yaml")
    assert many.looks_until("z.yaml") == 1
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert many.looks_until("z.yaml") == 1
