"""etcd users for Cilium clusters, made by the one command, against a real etcd with grants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from etcd_server import Etcd, client_of, running

from clustermesh.etcd.auth import CONTROLLER, EtcdUser, bootstrap_auth
from clustermesh.etcd.client import Denied, EtcdAddress
from clustermesh.issued import Pki, write_pki
from clustermesh.publish import PREFIXES
from mesh.cli import main

USERS = [EtcdUser(cluster, CONTROLLER, "a") for cluster in ("east", "west")]
WRITES = (
    *(
        f"cilium/cache/{kind}/v1/north/x"
        for kind in ("nodes", "services", "endpointslices", "serviceexports", "ip", "identities")
    ),
    "cilium/cluster-config/north",
    "cilium/synced/north/cilium/cache/nodes/v1",
    "cilium/.initlock/1f/2e",
    "cilium/kvstoremesh-lock/2e",
)
READS = (
    "cilium/.heartbeat",
    "cilium/cache/nodes/v1/east/",
    "cilium/cluster-config/",
    "cilium/synced/west/",
)
FORBIDDEN = (
    "cilium/.heartbeat",
    "cilium/cache/nodes/v1/east/x",
    "cilium/cache/nodes/v1/north2/x",
    "cilium/cluster-config/north2",
    "cilium/cluster-config/east",
    "cilium/synced/east/cilium/cache/nodes/v1",
    "cilium/state/nodes/v1/north/x",
    "meshgate/v1/north/leader",
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Pki, Path]]:
    folder = tmp_path_factory.mktemp("pki")
    pki = write_pki(folder, ["root"], ["127.0.0.1"])

    async def prepare(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await bootstrap_auth(client, USERS, PREFIXES)
            await client.put("cilium/.heartbeat", b"now")

    with running(tmp_path_factory.mktemp("etcd"), pki) as server:
        asyncio.run(prepare(server))
        yield server, pki, folder


def made(
    role: str, guarded: tuple[Etcd, Pki, Path], place: Path, capsys: pytest.CaptureFixture[str]
) -> EtcdAddress:
    """What the command prints, as the files that its configuration names."""
    server, _, folder = guarded
    url = f"https://{server.address}"
    arguments = ["--role", role, "--etcd", url, "--pki", str(folder), "-o", "json"]
    status = main(["cluster", "user", "north", *arguments])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    row = json.loads(printed.out)
    config = yaml.safe_load(row["config"])
    assert config["endpoints"] == [url]
    files = {}
    fields = {"ca": "trusted-ca-file", "certificate": "cert-file", "key": "key-file"}
    for name, field in fields.items():
        files[name] = place / Path(config[field]).name
        files[name].write_text(row[name])
    return EtcdAddress([url], files["ca"], files["certificate"], files["key"])


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_a_user_may_do_what_its_role_needs_and_no_more(
    role: str,
    guarded: tuple[Etcd, Pki, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):  # made again, it gets a new certificate and keeps its rights
        address = made(role, guarded, tmp_path, capsys)

    async def run() -> None:
        async with client_of(address) as client:

            async def may(key: str) -> bool:
                try:
                    await client.put(key, b"x")
                except Denied:
                    return False
                return True

            written = {key for key in (*WRITES, *FORBIDDEN) if await may(key)}
            assert written == (set(WRITES) if role == "writer" else set())
            assert (await client.list("cilium/.heartbeat")).kvs  # Cilium watches it as a prefix
            for prefix in READS[1:] if role == "reader" else ():
                await client.list(prefix)
            with pytest.raises(Denied):
                await client.list("meshgate/v1/")

    asyncio.run(run())


def test_what_is_printed_is_one_file_after_the_other(
    guarded: tuple[Etcd, Pki, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, _, folder = guarded
    where = ["--etcd", f"https://{server.address}", "--pki", str(folder)]
    assert main(["cluster", "user", "south", "--role", "reader", *where]) == 0
    names = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert [name.rpartition("/")[2] for name in names] == [
        "south-reader.ca.crt", "south-reader.crt", "south-reader.key", "south-reader.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "says"), [("default", "no cluster name"), ("north", "ca.crt")])
def test_what_is_wrong_is_said(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cluster", "user", name, "--role", "reader", "--pki", str(tmp_path)]
    assert main([*arguments, "--etcd", "https://127.0.0.1:1"]) == 1
    assert says in capsys.readouterr().err
