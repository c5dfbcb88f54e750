"""The rows of BENCH.md about objects from an API server: a list of 10,000 pods, then their events.

The API server is the fake of the unit tests, in a process of its own: a real one gives fewer events
than the reader takes. Time is CPU time of the reader's process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.core import steps
from mesh.core.steps import Steps
from mesh.k8s import watches
from mesh.k8s.access import Access
from mesh.k8s.api import Api
from mesh.k8s.settings import Kubernetes
from mesh.k8s.source import ApiServer
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import NAMESPACES as NAMESPACE
from mesh.objects.kubernetes import PODS as POD
from mesh.process import COLLECT
from tests.bench.change import memory_mb
from tests.bench.say import say
from tests.unit.k8s.fake_api_server import PODS, FakeApiServer

COUNT = 10_000
_SERVE = "serve"
_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Objects:
    """Figures of one reader; times are CPU."""

    list_s: float
    list_step_ms: float
    event_us: float
    event_step_ms: float
    rss_mb: float
    base_mb: float


def measure() -> Objects:
    """The figures of a process of its own."""
    say(f"objects from an API server: {COUNT:,} pods")
    command = [sys.executable, "-m", "tests.bench.objects"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Objects(**json.loads(done.stdout))


def rows(found: Objects) -> list[tuple[str, str]]:
    """What, and the figure."""
    return [
        (f"first list of {COUNT:,} pods, CPU", f"{found.list_s:.2f} s"),
        ("the same, longest step", f"{found.list_step_ms:.1f} ms"),
        ("an event of a pod, CPU", f"{found.event_us:.0f} µs"),
        ("events for one core", f"{1e6 / found.event_us:,.0f}/s"),
        ("the same, longest step", f"{found.event_step_ms:.1f} ms"),
        ("memory of the reader", f"{found.rss_mb:.0f} MB, of which {found.base_mb:.0f} before"),
    ]


def pod(number: int, round_: int) -> dict[str, Any]:
    """A pod of about 2 KB, as a kubelet leaves it."""
    fields = {f"f:{name}": {} for name in range(60)}
    container = {
        "name": "c",
        "image": "registry/image:1",
        "env": [{"name": f"E{name}", "value": "v" * 20} for name in range(10)],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    address = f"10.1.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": {
            "name": f"pod-{number}",
            "namespace": "shop",
            "labels": {"app": f"app-{number % 100}", "round": str(round_)},
            "managedFields": [{"manager": "kubelet", "fieldsV1": fields}],
        },
        "spec": {"nodeName": f"node-{number % 200}", "containers": [container]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


async def serve(folder: Path) -> None:
    """Be the API server: change every pod at each line of stdin, until it ends."""
    server = FakeApiServer()
    for number in range(COUNT):
        server.put(PODS, pod(number, 0))
    async with server.serve():
        server.api(folder)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        round_ = 0
        while await asyncio.to_thread(sys.stdin.readline):
            round_ += 1
            for number in range(COUNT):
                server.put(PODS, pod(number, round_))
                await asyncio.sleep(0)


async def read(folder: Path, server: subprocess.Popen[str], measured: Steps) -> Objects:
    """Be the reader."""
    base_mb = memory_mb()
    kinds = watches.of_nouns(KINDS, (NAMESPACE, POD))
    api = Api(Access(Kubernetes(kubeconfig=folder / "kubeconfig")))
    one = ApiServer(api, kinds, "east", folder, kinds=KINDS)
    began, measured.longest_s = time.process_time(), 0.0
    task = asyncio.create_task(one.run())
    pods = one.objects[POD]
    async with asyncio.timeout(_WAIT_S):
        while not pods.synced:
            await asyncio.sleep(0.01)
    list_s, list_step_ms = time.process_time() - began, 1000 * measured.longest_s
    await asyncio.sleep(1)
    began, measured.longest_s, revision = time.process_time(), 0.0, pods.revision
    assert server.stdin is not None
    server.stdin.write("go\n")
    server.stdin.flush()
    last = next(key for key in pods.rows if key.name == f"pod-{COUNT - 1}")
    async with asyncio.timeout(_WAIT_S):
        while pods.revision == revision or ("round", "1") not in pods.rows[last].labels:
            await asyncio.sleep(0.05)
    event_us = 1e6 * (time.process_time() - began) / COUNT
    event_step_ms, rss_mb = 1000 * measured.longest_s, memory_mb()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return Objects(list_s, list_step_ms, event_us, event_step_ms, rss_mb, base_mb)


def main() -> None:
    """Print the figures as JSON."""
    if sys.argv[1:2] == [_SERVE]:
        asyncio.run(serve(Path(sys.argv[2])))
        return
    gc.set_threshold(*COLLECT)
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "tests.bench.objects", _SERVE, name]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            measured = Steps()
            found: list[Objects] = []

            async def run() -> None:
                found.append(await read(Path(name), server, measured))

            steps.run(run(), measured)
        finally:
            server.kill()
            server.wait()
    (one,) = found
    sys.stdout.write(json.dumps({field: getattr(one, field) for field in Objects.__slots__}))


if __name__ == "__main__":
    main()
