"""In a namespace that reaches etcd: publish addresses of one cluster, time them in another's map.

``python -m tests.bench.publish`` reads a ``Job`` as JSON and prints the seconds of every address.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from bpf.maps import Map
from clustermesh import wire
from clustermesh.etcd import Client, Endpoint
from mesh.codecs import encode_address
from mesh.core.model import IP, Address, PodKey

#: An address that takes longer is an error.
WITHIN_S = 5.0
POLL_S = 0.0002


@dataclass(frozen=True, slots=True)
class Job:
    """What to publish as whom, and in which pinned map it must appear."""

    endpoint: str
    ca: str
    cert: str
    key: str
    cluster: str
    identity: int
    node: str
    first: str
    count: int
    map: str


async def publish(job: Job) -> list[float]:
    """Seconds from the put to the entry; every key is removed again."""
    client = Client(Endpoint([job.endpoint], job.ca, job.cert, job.key))
    first = ip_address(job.first)
    try:
        await client.get(wire.address_key(job.cluster, first))  # connected before the first put
        with Map.open_pinned(Path(job.map)) as target:
            return [await _one(client, job, first + n, target) for n in range(job.count)]
    finally:
        await client.aclose()


async def _one(client: Client, job: Job, address: IP, target: Map) -> float:
    key, name = wire.address_key(job.cluster, address), encode_address(address)
    row = Address(address, job.identity, job.cluster, IPv4Address(job.node))
    value = wire.address_value(row, PodKey(job.cluster, "bench", "bench"), "")
    begin = time.perf_counter()
    await client.put(key, value)
    try:
        while target.lookup(name) is None:
            if time.perf_counter() - begin > WITHIN_S:
                raise TimeoutError(f"{key} is not in {job.map} after {WITHIN_S:.0f} s")
            await asyncio.sleep(POLL_S)
        return time.perf_counter() - begin
    finally:
        await client.delete(key)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(publish(Job(**json.loads(sys.stdin.read()))))))
