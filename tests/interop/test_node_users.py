"""Users of nodes on a real etcd: renewed in place, revoked; what open connections may still do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from etcd_server import Etcd, client_of, running, task_of, until

from clustermesh import users
from clustermesh.ending import ending
from clustermesh.etcd import client as clients
from clustermesh.etcd.auth import NODE, EtcdUser, bootstrap_auth
from clustermesh.etcd.blocking import BlockingClient
from clustermesh.etcd.client import Client, Denied, EtcdAddress, Unavailable
from clustermesh.issued import Folder, files_of, write_pki
from clustermesh.publish import PREFIXES
from clustermesh.store.follow import Batch, Entry
from clustermesh.store.own import Own
from mesh.cli import main

OWN, OTHER = EtcdUser("east", NODE, "east-1"), EtcdUser("east", NODE, "east-2")
KEY = "meshgate/v1/east/pod/east-1/shop/web-1"
ALL = "meshgate/v1/east/"
REVOKED = "meshgate/v1/east/revoked/node/east-1"


@dataclass
class Store:
    """An etcd with two nodes' users, and the folder of its CA."""

    etcd: Etcd
    folder: Path

    @property
    def url(self) -> str:
        return f"https://{self.etcd.address}"

    def verb(self, *arguments: str) -> int:
        where = ["--cluster", "east", "--etcd", self.url, "--pki", str(self.folder)]
        return main(["cluster", "node", "east-1", *arguments, *where])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "pki"
    pki = write_pki(folder, ["root"], ["127.0.0.1"], [OWN.cn, OTHER.cn])

    async def prepare(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            await bootstrap_auth(client, [OWN, OTHER], PREFIXES)

    with running(tmp_path / "etcd", pki) as server:
        asyncio.run(prepare(server))
        yield Store(server, folder)


class Seen:
    """A watch of the whole subtree: each event's key and value, each connection."""

    def __init__(self, client: Client) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.connections = 0
        self._client = client

    async def run(self) -> None:
        async with contextlib.aclosing(self._client.watch(ALL, 1)) as watch:
            async for seen in watch:
                self.connections += seen.created
                self.events += [(event.kv.key.decode(), event.kv.value) for event in seen.events]

    def has(self, value: bytes) -> bool:
        return any(one == value for _, one in self.events)


def test_revoked_a_node_reads_and_writes_nothing_and_is_shown(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by the connection and the watch that were open; everybody else goes on."""

    async def run() -> None:
        async with (
            client_of(store.etcd.endpoint_of(OWN.cn)) as own,
            client_of(store.etcd.endpoint_of(OTHER.cn)) as other,
            client_of(store.etcd.endpoint) as root,
        ):
            mine, theirs = Seen(own), Seen(other)
            async with task_of(mine.run()), task_of(theirs.run()):
                await own.put(KEY, b"before")
                await until(lambda: mine.has(b"before") and theirs.has(b"before"), "both watch")
                assert await asyncio.to_thread(store.verb, "--revoke") == 0
                with pytest.raises((Denied, Unavailable)):
                    await own.put(KEY, b"after")
                with pytest.raises((Denied, Unavailable)):
                    await own.get(KEY)
                await root.put(f"{ALL}x", b"secret")
                await until(lambda: theirs.has(b"secret"), "others miss nothing")
                await asyncio.sleep(0)
                assert not mine.has(b"secret")
                async with client_of(store.etcd.endpoint_of(OWN.cn)) as fresh:
                    with pytest.raises(Unavailable):
                        await fresh.put(KEY, b"after")
                assert [v for k, v in theirs.events if k == KEY] == [b"before"]
                kv = await root.get(REVOKED)
                assert kv is not None
                shown = Own("east")
                shown.take(Batch(1, [Entry(REVOKED, kv.value, 1, 1, 0)]))
                (finding,) = shown.findings.values()
                assert (finding.code, finding.object) == ("M183", "User/east:node:east-1")
                assert finding.about == ("node/east-1",)

    asyncio.run(run())
    said = capsys.readouterr().out
    assert "east:node:east-1: user and role are gone" in said
    assert "connections to etcd on this host were ended" in said


def test_without_the_end_of_connections_an_open_watch_of_a_revoked_node_goes_on(
    store: Store,
) -> None:
    """Why the verb ends them: etcd judges a watch when it is made (D64)."""

    async def run() -> None:
        async with (
            client_of(store.etcd.endpoint_of(OWN.cn)) as own,
            client_of(store.etcd.endpoint) as root,
        ):
            mine = Seen(own)
            async with task_of(mine.run()):
                await own.put(KEY, b"before")
                await until(lambda: mine.has(b"before"), "it watches")
                who = users.processes_of("east", NODE, "east-1")
                assert await asyncio.to_thread(users.revoke, who, store.folder, [store.url]) == 1
                with pytest.raises(Denied):
                    await own.put(KEY, b"after")
                await root.put(f"{ALL}x", b"secret")
                await until(lambda: mine.has(b"secret"), "the open watch is still served")
                assert users.end_connections([store.url])
                await root.put(f"{ALL}x", b"later")
                await root.get(KEY)
                assert not mine.has(b"later")
                await until(lambda: own.problem, "it is refused")

    asyncio.run(run())


def test_issued_again_a_revoked_node_is_back_with_new_files(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.verb("--revoke") == 0
    assert store.verb("--issue", "--into", str(store.folder)) == 0
    assert f"{OWN.cn}: {store.folder}" in capsys.readouterr().out

    async def run() -> None:
        async with client_of(store.etcd.endpoint_of(OWN.cn)) as own:
            await own.put(KEY, b"again")
        async with client_of(store.etcd.endpoint) as root:
            assert await root.get(REVOKED) is None

    asyncio.run(run())


def test_the_verb_prints_files_that_work_and_fit_into_a_configuration(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert store.verb("--issue", "-o", "json") == 0
    agent, speaker = json.loads(capsys.readouterr().out)
    assert (agent["user"], speaker["user"]) == (OWN.cn, "east:speaker:east-1")
    for name, text in agent.items():
        (tmp_path / name).write_text(text)
    names = ("ca", "certificate", "key")
    address = EtcdAddress([store.url], *(tmp_path / name for name in names))

    async def run() -> None:
        async with client_of(address) as client:
            await client.put(KEY, b"x")
            with pytest.raises(Denied):
                await client.put("meshgate/v1/east/pod/east-2/shop/web-2", b"x")

    asyncio.run(run())
    assert "/etc/meshgate/east_node_east-1.crt" in agent["config"]
    assert store.verb("--revoke") == 0
    assert "3 more certificates" in capsys.readouterr().out  # two of the agent, one of the speaker


def test_a_node_of_no_known_cluster_is_said(store: Store, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MESHGATE_RUN", str(store.folder / "nothing"))
    where = ["--etcd", store.url, "--pki", str(store.folder)]
    assert main(["cluster", "node", "east-1", "--issue", *where]) == 1
    assert "say --cluster" in capsys.readouterr().err


def test_a_renewed_certificate_is_taken_and_no_event_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch and calls go over to a connection with the new files; nothing ends, no problem shows.

    The old certificate is revoked at the end: who still used it would be refused.
    """
    monkeypatch.setattr(clients, "LOOK_S", 0.05)
    folder = Folder(store.folder)

    async def run() -> None:
        problems = []
        async with (
            client_of(store.etcd.endpoint_of(OWN.cn)) as own,
            client_of(store.etcd.endpoint) as root,
        ):
            mine = Seen(own)
            async with task_of(mine.run()):
                for number in range(60):
                    if number in (20, 40):
                        assert OWN.cn in folder.renew(timedelta(days=7), spent=0)
                    await own.put(KEY, b"%d" % number)
                    await root.put(f"{ALL}x", b"x%d" % number)
                    problems.append(own.problem)
                    await asyncio.sleep(0.01)
                await until(lambda: mine.has(b"x59"), "all events")
            assert not any(problems)
            written = [value for key, value in mine.events if key in (KEY, f"{ALL}x")]
            assert written == [w for n in range(60) for w in (b"%d" % n, b"x%d" % n)]
            assert mine.connections == 3

    asyncio.run(run())


def test_a_key_without_its_certificate_ends_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are replaced one after the other: whoever looks in between keeps what it has."""
    monkeypatch.setattr(clients, "LOOK_S", 0.0)
    files = files_of(store.folder, OWN.cn)
    key = files.key.read_bytes()

    async def run() -> None:
        async with client_of(store.etcd.endpoint_of(OWN.cn)) as own:
            await own.put(KEY, b"1")
            files.key.write_bytes(files_of(store.folder, OTHER.cn).key.read_bytes())
            await own.put(KEY, b"2")
            assert own.problem == ""
            files.key.write_bytes(key)
            await own.put(KEY, b"3")
            assert own.problem == ""

    asyncio.run(run())


def connections(store: Store) -> set[str]:
    """Local addresses of the connections to etcd."""
    port = store.etcd.address.rpartition(":")[2]
    command = ["ss", "-Htn", "state", "established", f"dport = :{port}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[2] for line in lines}


def test_the_thread_that_renews_a_lease_takes_a_renewed_certificate_too(store: Store) -> None:
    """Its channel is its own: it is another one after the renewal."""
    blocking = BlockingClient(store.etcd.endpoint_of(OWN.cn))
    folder = Folder(store.folder)
    try:
        assert blocking.get(KEY, 2) is None
        before = connections(store)
        assert blocking.get(KEY, 2) is None
        assert connections(store) == before
        folder.renew(timedelta(days=7), spent=0)
        assert blocking.get(KEY, 2) is None
        assert not connections(store) & before
    finally:
        blocking.close()


def test_an_expired_certificate_is_refused_and_found_and_a_renewed_one_works(store: Store) -> None:
    """The open connection goes on: TLS judges a certificate at the handshake."""
    folder = Folder(store.folder)

    async def run() -> None:
        folder.renew(timedelta(seconds=1), spent=0)
        async with client_of(store.etcd.endpoint_of(OWN.cn)) as own:
            await own.put(KEY, b"1")
            (finding,) = ending(own, "node/east-1")
            assert (finding.code, finding.about) == ("M182", ("node/east-1",))
            await until(lambda: "has ended" in own.ending(), "the end")
            await own.put(KEY, b"2")
            await asyncio.to_thread(users.end_connections, [store.url])
            writing = asyncio.create_task(own.put(KEY, b"3"))
            await until(lambda: "expired" in own.problem, "the refusal")
            folder.renew(timedelta(days=7), spent=0)
            await writing
            assert own.problem == ""
            assert not list(ending(own))

    asyncio.run(run())
