"""``meshgate cluster forget NAME`` through a real leader to the key that all agents read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from clustermesh.remote import wire
from mesh.cli import main
from tests.interop import controllers
from tests.interop.controllers import Mesh, root
from tests.interop.etcd_server import until, until_async

pytestmark = pytest.mark.slow

TOLD = "meshgate/v1/east/forgotten/west"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with controllers.mesh(tmp_path) as it:
        yield it


def test_the_leader_writes_down_what_the_command_asks_for(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks when that cluster's config still stands, and takes no for an answer."""

    async def lead() -> Path:
        await controllers.start_etcd(mesh)
        mesh.apply_all("east")
        it = mesh.controller("east").start()
        await until(lambda: it.status().get("leads"), "east leads", 60)
        async with root(mesh) as client:
            await client.put(wire.config_key("west"), wire.cluster_config(2))
        return it.directory / "controller.yaml"

    async def told(*, there: bool) -> None:
        async with root(mesh) as client:

            async def right() -> bool:
                request = await client.get("meshgate/v1/east/forget/west")
                return request is None and (await client.get(TOLD) is not None) == there

            await until_async(right, f"forgotten: {there}", 30)

    config = asyncio.run(lead())
    forget = ["cluster", "forget", "west", "--config", str(config)]
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(forget) == 1
    assert "still publishes its cluster-config" in capsys.readouterr().err
    asyncio.run(told(there=False))
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert main(forget) == 0
    asyncio.run(told(there=True))
    assert main([*forget[:2], "east", *forget[3:]]) == 1  # it is the controller's own


def test_a_missing_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path))
    assert main(["cluster", "forget", "west"]) == 1
    assert "say --config FILE" in capsys.readouterr().err
