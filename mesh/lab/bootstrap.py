"""Users, roles and authentication of the lab's etcd: runs once inside the etcd host, then ends.

``python -m mesh.lab.bootstrap ENDPOINT PKI USER…``, each user as ``<cluster>:<role>:<name>``; may
be repeated, also after the store was replaced by an empty one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clustermesh.etcd.auth import EtcdUser, bootstrap_auth
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.client import Client
from clustermesh.issued import ROOT, files_of
from clustermesh.publish import PREFIXES


async def run(endpoint: str, pki: Path, users: list[EtcdUser]) -> None:
    """Bring the users into the store, as ``root``."""
    root = files_of(pki, ROOT)
    client = Client(EtcdAddress([endpoint], pki / "ca.crt", root.cert, root.key))
    try:
        await bootstrap_auth(client, users, PREFIXES)
    finally:
        await client.aclose()


if __name__ == "__main__":
    given = [EtcdUser(*text.split(":")) for text in sys.argv[3:]]
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), given))
