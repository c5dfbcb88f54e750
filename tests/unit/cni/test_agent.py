"""Calls become attachments and wait; the room of pods is a fake that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from mesh.cni.agent import CNIAgent
from mesh.cni.attachments import Attachments
from mesh.cni.frames import HEAD, Frame, encode_request, lengths
from mesh.cni.server import listening
from mesh.cni.settings import CNISettings
from mesh.core.model import Connection, Pod, PodKey, Sandbox
from mesh.core.passes import Gate
from mesh.core.strict import parse_address
from mesh.core.table import Table

HERE = "/proc/self/ns/net"
WEB = PodKey("east", "shop", "web")
ADDRESS = parse_address("10.1.0.2")


class FakeConnected:
    """Connects an attachment when it is told to."""

    def __init__(self) -> None:
        self.lack = "an address"
        self.unready = ""
        self.wake: Callable[[], None] = lambda: None
        self.devices: set[Sandbox] = set()

    def listen(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def say(self, lack: str) -> None:
        self.lack = lack
        self.wake()

    def lacks(self, key: Sandbox) -> str:
        if not self.lack:
            self.devices.add(key)
        return self.lack

    def connection(self, _: Sandbox) -> Connection | None:
        return Connection("mgp1", "0e:00:00:00:00:01", "0a:00:00:00:00:01", 1450, (ADDRESS,))

    def stands(self, _: Sandbox) -> bool:
        return False


class Room:
    """The room with its tables; ADD waits for at most 0.2 s."""

    def __init__(self, place: Path) -> None:
        self.pods: Table[PodKey, Pod] = Table("object")
        self.attachments = Attachments(place)
        self.attachments.load()
        self.connected = FakeConnected()
        self.settings = CNISettings(
            socket=place / "s", conf_dir=place / "net.d", bin_dir=place / "bin"
        )
        self.agent = CNIAgent(
            "east", self.settings, self.attachments, self.pods, self.connected, add_s=0.2
        )
        self.agent.begin(Gate())

    def pod(self, uid: str = "") -> None:
        self.pods.upsert({WEB: Pod("east", "shop", "web", "east-1", (("app", "web"),), uid=uid)})

    async def call(self, command: str, uid: str = "", **config: object) -> dict[str, Any]:
        reply = await self.agent.answer(frame(command, uid, config))
        return dict(json.loads(reply.text)) if reply.text else {}

    @property
    def attached(self) -> list[str]:
        return [row.container for row in self.attachments.table.rows.values()]


def frame(command: str, uid: str = "", config: Mapping[str, object] | None = None) -> Frame:
    arguments = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID={uid}"
    environment = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": HERE,
        "CNI_IFNAME": "mgtest0", "CNI_ARGS": arguments,
    }  # fmt: skip
    text = json.dumps({"cniVersion": "1.1.0", "name": "meshgate", **(config or {})})
    return Frame(environment, text.encode())


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def run(act: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(act)


def test_add_ends_as_soon_as_nothing_is_lacking(room: Room) -> None:
    async def act() -> dict[str, Any]:
        room.pod()
        asking = asyncio.ensure_future(room.call("ADD"))
        await asyncio.sleep(0)
        room.connected.say("")
        return await asking

    assert run(act())["ips"][0]["address"] == "10.1.0.2/32"
    row = next(iter(room.attachments.table.rows.values()))
    assert (row.labels, row.network, row.netns) == ((("app", "web"),), "meshgate", HERE)


def test_an_add_that_waits_in_vain_says_what_is_lacking_and_leaves_nothing(room: Room) -> None:
    room.pod()
    said = run(room.call("ADD"))
    assert said["code"] == 11
    assert "shop/web" in said["msg"]
    assert said["msg"].endswith("an address")
    assert room.attached == []


def test_a_pod_whose_object_is_not_known_is_not_attached(room: Room) -> None:
    assert run(room.call("ADD"))["code"] == 11
    room.pod(uid="1")
    said = run(room.call("ADD", uid="2"))
    assert said["code"] == 11
    assert "an earlier one of its name" in said["msg"]
    assert room.attached == []


def test_a_del_ends_the_add_that_waits(room: Room) -> None:
    async def act() -> dict[str, Any]:
        room.pod()
        asking = asyncio.ensure_future(room.call("ADD"))
        while not room.attached:
            await asyncio.sleep(0)
        assert await room.call("DEL") == {}
        return await asking

    said = run(act())
    assert said["code"] == 11
    assert "deleted meanwhile" in said["msg"]
    assert room.attached == []


def test_status_says_why_no_pod_can_be_connected(room: Room) -> None:
    assert run(room.call("STATUS")) == {}
    room.connected.unready = "the node has no pod CIDR"
    said = run(room.call("STATUS"))
    assert said["code"] == 50
    assert "pod CIDR" in said["msg"]


def test_without_its_file_an_agent_attaches_nothing(room: Room, tmp_path: Path) -> None:
    (tmp_path / "attachments.json").write_text("{")
    broken = Room(tmp_path)
    broken.pod()
    broken.connected.say("")
    assert run(broken.call("ADD"))["code"] == 11
    assert run(broken.call("STATUS"))["code"] == 50
    assert run(broken.call("DEL")) == {}
    assert [one.code for one in broken.agent.findings()] == ["M215"]
    del room


def test_a_mistake_of_ours_is_to_be_tried_again(room: Room) -> None:
    room.pod()
    room.connected.connection = lambda _: 1 / 0  # type: ignore[method-assign,assign,return-value]
    room.connected.say("")
    assert run(room.call("ADD"))["code"] == 11


def test_a_plugin_that_goes_ends_its_call(room: Room) -> None:
    """Its runtime has given up, and deletes what there may be."""

    async def act() -> bool:
        ended = asyncio.Event()

        async def serve(_: Frame) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with listening(room.settings.socket, serve):
            _, writer = await asyncio.open_unix_connection(room.settings.socket)
            writer.write(encode_request(frame("ADD")))
            await writer.drain()
            await asyncio.sleep(0)
            writer.close()
            await asyncio.wait_for(ended.wait(), 5)
        return ended.is_set()

    assert run(act())


def test_a_socket_is_served_over_that_of_a_dead_agent(room: Room) -> None:
    async def act() -> tuple[int, bytes]:
        room.settings.socket.touch()
        async with listening(room.settings.socket, room.agent.answer):
            assert room.settings.socket.stat().st_mode & 0o777 == 0o600
            reader, writer = await asyncio.open_unix_connection(room.settings.socket)
            writer.write(encode_request(frame("VERSION")))
            status, length = lengths(await reader.readexactly(HEAD))
            text = await reader.readexactly(length)
            writer.close()
            return status, text

    status, text = run(act())
    assert status == 0
    assert json.loads(text)["supportedVersions"][-1] == "1.1.0"
