"""Users, roles and authentication of the lab's etcd: runs once inside the etcd host, then ends.

``python -m mesh.lab.bootstrap ENDPOINT PKI CLUSTER…``; may be repeated, also after the store was
replaced by an empty one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clustermesh.etcd.auth import bootstrap_auth
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.client import Client
from clustermesh.publish import PREFIXES


async def run(endpoint: str, pki: Path, clusters: list[str]) -> None:
    """Bring the users of all clusters into the store, as ``root``."""
    client = Client(EtcdAddress([endpoint], pki / "ca.crt", pki / "root.crt", pki / "root.key"))
    try:
        await bootstrap_auth(client, clusters, PREFIXES)
    finally:
        await client.aclose()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
