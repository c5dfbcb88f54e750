"""``meshgate cluster accept-apiserver``: a key of the own subtree that all processes read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from clustermesh.accept import accepted_at
from clustermesh.etcd.client import Client
from clustermesh.etcd.names import key_text
from mesh.cli import main
from tests.interop.etcd_server import Etcd

PREFIX = "meshgate/v1/east/apiserver/"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    made = Etcd(tmp_path / "etcd")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def configuration(place: Path, etcd: Etcd, **more: object) -> Path:
    path = place / "controller.yaml"
    tree = {
        "cluster": {"name": "east", "id": 1},
        "etcd": {"endpoints": [f"http://{etcd.address}"]},
    }
    path.write_text(yaml.safe_dump(tree | more))
    return path


def accepted(etcd: Etcd) -> list[str]:
    async def read() -> list[str]:
        client = Client(etcd.endpoint)
        try:
            return [key_text(kv.key) for kv in (await client.list(PREFIX)).kvs]
        finally:
            await client.aclose()

    return asyncio.run(read())


def test_one_api_server_is_accepted_at_a_time(
    etcd: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, etcd, kubernetes={})
    command = ["cluster", "accept-apiserver", "--config", str(config), "--uid"]
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main([*command, "uid-2"]) == 1
    assert accepted(etcd) == []
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main([*command, "uid-2"]) == 0
    assert accepted(etcd) == [f"{PREFIX}uid-2"]
    assert main([*command, "uid-3", "--yes"]) == 0
    assert accepted(etcd) == [f"{PREFIX}uid-3"]
    assert "east: API server uid-3 counts" in capsys.readouterr().out


def test_what_stands_in_the_way_is_named(
    etcd: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path / "none"))
    assert main(["cluster", "accept-apiserver", "--yes"]) == 1
    assert "found none under" in capsys.readouterr().err
    of_folder = ["--config", str(configuration(tmp_path, etcd, manifests="/m"))]
    assert main(["cluster", "accept-apiserver", "--yes", *of_folder]) == 1
    assert "names an API server" in capsys.readouterr().err
    away = {"host": "https://127.0.0.1:1"}
    of_away = ["--config", str(configuration(tmp_path, etcd, kubernetes=away))]
    assert main(["cluster", "accept-apiserver", "--yes", *of_away]) == 1
    assert "API server https://127.0.0.1:1" in capsys.readouterr().err
    assert accepted(etcd) == []


def test_held_routes_of_a_router_are_let_go(
    etcd: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, etcd)
    command = ["peer", "accept", "10.99.0.1", "--config", str(config)]
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(command) == 1
    before = datetime.now(UTC)
    assert main([*command, "--yes"]) == 0
    assert "10.99.0.1" in capsys.readouterr().out

    async def read() -> bytes:
        client = Client(etcd.endpoint)
        try:
            (kv,) = (await client.list("meshgate/v1/east/accepted/peer/10.99.0.1")).kvs
            return kv.value
        finally:
            await client.aclose()

    assert before <= accepted_at(asyncio.run(read())) <= datetime.now(UTC)
    assert main(["peer", "accept", "10.99.0.1", "--config", str(tmp_path / "none")]) == 1
