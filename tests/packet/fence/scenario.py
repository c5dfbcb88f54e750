"""Agent and controller with one feature more, beside a real etcd: what they say and do, as JSON.

Run in a network namespace with a device ``uplink``; the argument is a folder (see the test).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import yaml

from bpf.testrun import run
from clustermesh.remote import wire
from mesh import cli
from mesh.agent import Agent
from mesh.config import load_agent, load_controller
from mesh.controller import Controller
from mesh.core.model import Node
from mesh.kernel import Kernel
from mesh.nouns import NOUNS
from mesh.objects.kinds import KINDS
from tests.interop.controllers import manifest
from tests.interop.etcd_server import Etcd, client_of, running, task_of
from tests.packet.fence import kinds
from tests.packet.fence.agent import FenceAgent
from tests.packet.fence.controller import FenceController
from tests.packet.fence.nouns import FENCE
from tests.packet.packets import UDP, Packet

INSIDE, OUTSIDE = "192.0.2.10", "198.51.100.10"
LISTED = {**NOUNS, FENCE.name: FENCE}
ALL = KINDS.with_kinds(kinds.KINDS)


def objects(folder: Path) -> None:
    folder.mkdir()
    address = {"type": "InternalIP", "address": "10.99.0.11"}
    documents = [
        manifest("Node", "east-1", status={"addresses": [address]}),
        manifest(
            "Pod", "web", "shop",
            meta={"labels": {"app": "web"}}, spec={"nodeName": "east-1", "containers": []},
        ),
        *(fence(name, app, network) for name, app, network in (
            ("documentation", "web", "192.0.2.0/24"), ("unused", "nobody", "203.0.113.0/24"),
        )),
    ]  # fmt: skip
    (folder / "all.yaml").write_text(yaml.safe_dump_all(documents))


def fence(name: str, app: str, network: str) -> dict[str, Any]:
    spec = {"podSelector": {"matchLabels": {"app": app}}, "networks": [network]}
    return manifest("Fence", name, api="test.meshgate.io/v1", spec=spec)


def configured(place: Path, etcd: Etcd) -> tuple[Path, Path]:
    """Configuration files of agent and controller."""
    both: dict[str, Any] = {
        "cluster": {"name": "east", "id": 1},
        "manifests": str(place / "manifests"),
        "etcd": {"endpoints": [f"http://{etcd.address}"]},
    }
    settings = msgspec.json.decode((place / "places.json").read_bytes())
    agent = both | settings | {
        "node": "east-1", "uplink": "uplink",
        "socket": str(place / "run/agent.sock"), "stateDir": str(place / "agent"),
    }  # fmt: skip
    pools = {"podCIDRs": [{"cidr": "10.1.0.0/16", "nodePrefix": 24}]}
    controller = both | {
        "instance": "one", "pools": pools,
        "socket": str(place / "run/controller.sock"), "stateDir": str(place / "controller"),
    }  # fmt: skip
    files = place / "agent.yaml", place / "controller.yaml"
    for file, config in zip(files, (agent, controller), strict=True):
        file.write_text(yaml.safe_dump(config))
    return files


async def meshgate(*arguments: str) -> Any:
    """What the command line prints."""
    text = io.StringIO()

    def call() -> None:
        with contextlib.redirect_stdout(text):
            cli.main([*arguments, "-o", "json"], LISTED)

    await asyncio.to_thread(call)
    return msgspec.json.decode(text.getvalue())


async def eventually(look: Callable[[], Any], holds: Callable[[Any], object]) -> Any:
    """What ``look`` gives once it ``holds``; after 30 s whatever it gives."""
    end = asyncio.get_running_loop().time() + 30
    while True:
        seen = await look()
        if holds(seen) or asyncio.get_running_loop().time() > end:
            return seen
        await asyncio.sleep(0.2)


def verdict(agent: Agent, destination: str) -> int:
    """What ``mg_from_pod`` makes of the pod's packet."""
    pods = agent.features.pods
    device = next(iter(pods.devices.rows.values()))
    address = next(iter(pods.local_pod.rows.values())).addresses[0]
    packet = Packet(str(address), destination, UDP(40000, 53)).wire()
    program = agent.datapath.program("mg_from_pod")
    return run(program, packet, ctx={"ifindex": device.ifindex}).verdict


async def observed(agent: Agent, etcd: Etcd) -> dict[str, Any]:
    async def rows() -> Any:
        return await meshgate("fence", "list")

    seen: dict[str, Any] = {}
    seen["rows"] = await eventually(rows, lambda rows: rows and all(r["number"] for r in rows))
    pods = agent.datapath.map("mg_pod_addr")

    async def marks() -> list[int]:
        return [int(value["fence"]) for value in pods.dump()[1]]

    seen["marks"] = await eventually(marks, any)
    seen["verdicts"] = {to: verdict(agent, to) for to in (INSIDE, OUTSIDE)}
    seen["drops"] = await meshgate("drop", "list")
    async with client_of(etcd.endpoint) as client:
        claims = await client.list("meshgate/v1/east/fence/")
        seen["claims"] = sorted(kv.key.decode() for kv in claims.kvs)
        await publish(client)
        taken = {"M129"}

    async def findings() -> Any:
        return (await meshgate("status"))["findings"]

    seen["findings"] = await eventually(
        findings, lambda found: taken <= {one["code"] for one in found}
    )
    seen["nodes"] = await meshgate("node", "list")
    return seen


async def publish(client: Any) -> None:
    """Two nodes of another cluster; one has the fenced network."""
    await client.put(wire.config_key("west"), wire.cluster_config(2))
    for number, cidr in ((1, "10.2.0.0/24"), (2, "192.0.2.128/25")):
        node = Node(
            "west", f"west-{number}", (IPv4Address(f"10.99.0.2{number}"),), (ip_network(cidr),)
        )
        await client.put(wire.node_key("west", node.name), wire.node_value(node, 2))


async def live(place: Path, etcd: Etcd) -> dict[str, Any]:
    agent_file, controller_file = configured(place, etcd)
    controller = Controller(
        load_controller(controller_file),
        more=lambda features: [FenceController(features.objects, features.own)],
        kinds=ALL,
    )
    async with task_of(controller.run()), Kernel.open() as kernel:
        agent = Agent(
            load_agent(agent_file),
            kernel,
            more=lambda features: [
                FenceAgent("east", features.objects, features.local.table, features.store.own)
            ],
            kinds=ALL,
            programs=place / "programs",
        )
        await agent.start()
        async with task_of(agent.run()):
            return await observed(agent, etcd)


def main(place: Path) -> None:
    (place / "run").mkdir()
    objects(place / "manifests")
    with running(place / "etcd") as etcd:
        seen = asyncio.run(live(place, etcd))
    sys.stdout.write(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
