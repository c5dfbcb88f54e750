"""The CNI list: written when pods can be connected, with the version that all its plugins speak."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mesh.cni import conflist
from mesh.cni.install import install, uninstall
from mesh.cni.lists import Lists
from mesh.cni.settings import CNISettings

OTHER = {
    "cniVersion": "1.0.0",
    "name": "kube",
    "disableCheck": True,
    "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}],
}


class Host:
    """Folders of a runtime, and a list that is kept in them."""

    def __init__(self, place: Path, *, beside: bool = False) -> None:
        self.settings = CNISettings(
            socket=place / "cni.sock", conf_dir=place / "net.d", bin_dir=place / "bin"
        )
        self.settings.bin_dir.mkdir()
        self.unready = ""
        self.lists = Lists(self.settings, lambda: self.unready, beside=beside)

    def plugin(self, name: str, *versions: str, status: int = 0) -> None:
        answer = json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions})
        fresh = self.settings.bin_dir / "fresh"
        fresh.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\nexit {status}\n")
        fresh.chmod(0o755)
        fresh.replace(self.settings.bin_dir / name)

    def put(self, name: str, content: object) -> None:
        self.settings.conf_dir.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (self.settings.conf_dir / name).write_text(text)

    def look(self) -> dict[str, Any]:
        """What our files are after a look, by name."""
        asyncio.run(self.lists.look())
        paths = [self.settings.conf_dir / name for name in (conflist.WHOLE, conflist.BESIDE)]
        return {path.name: json.loads(path.read_text()) for path in paths if path.exists()}

    @property
    def codes(self) -> list[str]:
        return [one.code for one in self.lists.findings()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.plugin(conflist.PLUGIN, "0.4.0", "1.0.0", "1.1.0")
    return made


@pytest.fixture
def beside(tmp_path: Path) -> Host:
    made = Host(tmp_path, beside=True)
    made.plugin(conflist.PLUGIN, "0.4.0", "1.0.0", "1.1.0")
    return made


def test_the_list_comes_when_pods_can_be_connected_and_then_stays(host: Host) -> None:
    host.unready = "the node has no pod CIDR"
    assert host.look() == {}
    host.unready = ""
    written = host.look()[conflist.WHOLE]
    assert (written["cniVersion"], written["name"]) == ("1.1.0", "meshgate")
    ours = {"type": "meshgate-cni", "socket": str(host.settings.socket)}
    assert written["plugins"] == [ours]
    host.unready = "no address is free"
    assert host.look()[conflist.WHOLE] == written
    path = host.settings.conf_dir / conflist.WHOLE
    before = path.stat()
    host.look()
    assert path.stat().st_ino == before.st_ino
    assert before.st_mode & 0o777 == 0o644


def test_portmap_is_chained_where_it_is(host: Host) -> None:
    assert host.lists.portmap is None
    host.plugin("portmap", "0.3.1", "0.4.0", "1.0.0")
    written = host.look()[conflist.WHOLE]
    assert host.lists.portmap is True
    assert written["cniVersion"] == "1.0.0"
    assert [one["type"] for one in written["plugins"]] == ["meshgate-cni", "portmap"]
    host.plugin("portmap", "1.0.0", "1.1.0")
    assert host.look()[conflist.WHOLE]["cniVersion"] == "1.1.0"
    (host.settings.bin_dir / "portmap").unlink()
    assert len(host.look()[conflist.WHOLE]["plugins"]) == 1
    assert host.lists.portmap is False


def test_a_portmap_that_cannot_be_used_is_a_finding_and_not_chained(host: Host) -> None:
    host.plugin("portmap", "0.1.0")
    assert len(host.look()[conflist.WHOLE]["plugins"]) == 1
    assert host.codes == ["M218"]
    (host.settings.bin_dir / "portmap").write_text("#!/bin/sh\necho no\n")
    assert len(host.look()[conflist.WHOLE]["plugins"]) == 1
    assert host.codes == ["M218"]
    (host.settings.bin_dir / "portmap").unlink()
    host.look()
    assert host.codes == []


def test_without_our_plugin_there_is_no_list(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.look() == {}
    assert host.codes == ["M217"]


def test_beside_the_others_list_has_our_plugin_at_its_end(beside: Host) -> None:
    beside.put("10-kube.conflist", OTHER)
    written = beside.look()
    ours = {"type": "meshgate-cni", "socket": str(beside.settings.socket)}
    assert written == {conflist.BESIDE: {**OTHER, "plugins": [*OTHER["plugins"], ours]}}
    assert json.loads((beside.settings.conf_dir / "10-kube.conflist").read_text()) == OTHER
    assert beside.codes == []


def test_beside_a_single_plugin_is_wrapped(beside: Host) -> None:
    single = {"cniVersion": "0.4.0", "name": "kube", "type": "bridge"}
    beside.put("20-kube.conf", single)
    written = beside.look()[conflist.BESIDE]
    assert (written["cniVersion"], written["name"]) == ("0.4.0", "kube")
    assert written["plugins"][0] == single
    assert [one["type"] for one in written["plugins"]] == ["bridge", "meshgate-cni"]


def test_beside_the_list_follows_the_other_and_goes_with_it(beside: Host) -> None:
    beside.put("10-kube.conflist", OTHER)
    beside.look()
    beside.put("10-kube.conflist", {**OTHER, "cniVersion": "1.1.0"})
    assert beside.look()[conflist.BESIDE]["cniVersion"] == "1.1.0"
    beside.put("05-first.conf", {"cniVersion": "1.0.0", "name": "first", "type": "ptp"})
    assert beside.look()[conflist.BESIDE]["name"] == "first"
    beside.put("05-first.conf", "{")  # a runtime takes the next one
    assert beside.look()[conflist.BESIDE]["name"] == "kube"
    (beside.settings.conf_dir / "10-kube.conflist").unlink()
    assert beside.look() == {}
    assert beside.codes == ["M219"]


def test_beside_a_version_that_we_do_not_speak_is_a_finding(beside: Host) -> None:
    beside.put("10-kube.conflist", {**OTHER, "cniVersion": "0.2.0"})
    assert beside.look() == {}
    assert beside.codes == ["M219"]


def test_a_mode_leaves_no_list_of_the_other_mode(host: Host) -> None:
    host.put(conflist.BESIDE, OTHER)
    assert list(host.look()) == [conflist.WHOLE]


def test_files_are_looked_at_as_a_runtime_does() -> None:
    assert conflist.first(["b.conf", "a.conflist", "c.json", "d.txt", "05-meshgate.conflist"]) == [
        "a.conflist", "b.conf", "c.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.conflist", b"\xff", "no JSON"),
        ("a.conflist", b"[]", "expected an object"),
        ("a.conflist", b'{"name": "x", "plugins": []}', "not empty"),
        ("a.conflist", b'{"plugins": [{"type": "x"}]}', "name: required"),
        ("a.conf", b'{"name": "x"}', "type"),
        ("a.conflist", b'{"name": "x", "plugins": [{"type": "meshgate-cni"}]}', "itself"),
    ],
)
def test_what_no_runtime_takes_is_no_list(name: str, text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        conflist.parse(name, text)


def test_the_plugin_is_installed_by_rename(tmp_path: Path) -> None:
    built, folder = tmp_path / "built", tmp_path / "bin"
    built.write_bytes(b"one")
    path = install(folder, built)
    with path.open("rb") as running:
        built.write_bytes(b"two")
        assert install(folder, built) == path
        assert running.read() == b"one"
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o755
    assert [one.name for one in folder.iterdir()] == [conflist.PLUGIN]
    uninstall(folder)
    uninstall(folder)
    assert list(folder.iterdir()) == []
