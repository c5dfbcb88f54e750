"""A Cilium agent's own code reads our store while it changes: ``make cilium``.

``python -m tests.tools.cilium.run [SECONDS]`` builds ``main.go`` (a Go toolchain, once), starts an
etcd and a controller, makes the reader's user by ``meshgate cluster user``, and lets pods come and
go and the leader be killed meanwhile. It ends with the reader's exit status.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from clustermesh.etcd.client import Client
from tests.interop import controllers
from tests.interop.controllers import Controller, Mesh
from tests.interop.etcd_server import until
from tests.tools.cilium.programs import READER, binary, configuration

#: Seconds between changes of pods, and between deaths of the leader.
CHURN_S, DEATH_S = 0.05, 45.0


async def churn(mesh: Mesh, it: Controller, end: float) -> int:
    """Pods come and go behind a global service; the leader is killed now and then."""
    changes, death = 0, time.monotonic() + DEATH_S
    async with controllers.root(mesh) as client:
        await controllers.put_pods(client, "east")
        for number in itertools.cycle(range(200)):
            if time.monotonic() > end:
                return changes
            await change(client, number)
            changes += 1
            if time.monotonic() > death:
                it.end(signal.SIGKILL)
                it.start()
                death = time.monotonic() + DEATH_S
            await asyncio.sleep(CHURN_S)
    return changes


async def change(client: Client, number: int) -> None:
    """Give web-1 another address, which changes its key, the service and a slice."""
    key = "meshgate/v1/east/pod/east-1/shop/web-1"
    kv = await client.get(key)
    assert kv is not None
    row = json.loads(kv.value)
    row["addresses"] = [
        address.rpartition(":" if ":" in address else ".")[0]
        + (f":{number + 20:x}" if ":" in address else f".{number + 20}")
        for address in row["addresses"]
    ]
    await client.put(key, json.dumps(row).encode())


async def run(seconds: int) -> int:
    """Everything; the reader's exit status."""
    with tempfile.TemporaryDirectory() as folder, controllers.mesh(Path(folder)) as mesh:
        await controllers.start_etcd(mesh)
        mesh.apply_all("east")
        it = mesh.controller("east").start()
        await until(it.leads_and_is_ready, "east leads and is ready", 120)
        config = await asyncio.to_thread(configuration, mesh, "reader")
        reader = await asyncio.create_subprocess_exec(
            str(await asyncio.to_thread(binary, READER)),
            "-config",
            str(config),
            "-seconds",
            str(seconds),
        )
        try:
            changes = await churn(mesh, it, time.monotonic() + seconds - 10)
            print(f"{changes} changes of a pod")
            return await reader.wait()
        finally:
            if reader.returncode is None:
                reader.kill()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(int(sys.argv[1]) if sys.argv[1:] else 600)))
