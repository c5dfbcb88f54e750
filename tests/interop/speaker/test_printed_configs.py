"""Real routers take what ``meshgate bgp config`` prints, and the session comes up.

Topology: frr_router.py, with each router in turn in place of FRR.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bgp.peer import BFD
from bgp.routers.side import UNICAST, VPN, Neighbor
from tests.interop.speaker.configured_routers import REAL, real_router
from tests.interop.speaker.frr_router import network, until
from tests.interop.speaker.test_bgp_session import ALL, PEER, Node

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bgpt-", dir="/run"))
    made.chmod(0o755)  # routers are other users
    with network():
        yield made
    shutil.rmtree(made)


FULL = {
    **PEER, "password": "s3cret+/=", "ttl_security": True,
    "families": ["ipv4 unicast", "ipv6 unicast", "ipv4 mpls-vpn", "ipv6 mpls-vpn"],
}  # fmt: skip
SID = ["fcbb:bb01:1:1::", 19, [32, 16, 16, 0, 0, 0]]
VPN_ROUTE = [
    "10.99.0.1", "10.60.1.1/32", "fd99::11",
    {"rd": "10.99.0.11:7", "extended": ["target:65000:100"], "sid": SID},
]  # fmt: skip


@contextmanager
def speaking(directory: Path, peer: dict[str, Any], *routes: list[Any]) -> Iterator[Node]:
    """A speaker with one session, ended at the end."""
    node = Node(directory)
    node.desire(*routes, peers=(peer,))
    node.start()
    try:
        yield node
    finally:
        node.kill()
        if pid := node.engine.pid():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", REAL)
def test_the_printed_configuration_brings_the_session_up(kind: str, directory: Path) -> None:
    neighbor = Neighbor(ip_address("10.99.0.11"), 65101, name="east-1", hold_s=9, is_told=False)
    with (
        real_router(kind, directory, [neighbor]) as router,
        speaking(directory, PEER, *ALL) as node,
    ):
        until(lambda: router.is_up("10.99.0.11"), f"{kind}: the session is up", 20)
        wanted = {route[1] for route in ALL}
        until(lambda: router.prefixes() == wanted, f"{kind} has {wanted}", 20)
        until(node.arrived, "the speaker sees all its routes sent")


@pytest.mark.parametrize("kind", REAL)
def test_so_does_one_with_password_gtsm_bfd_and_vpn(kind: str, directory: Path) -> None:
    """BFD has no other end here: a session that has never had it stays without."""
    neighbor = Neighbor(
        ip_address("10.99.0.11"), 65101, "s3cret+/=", "east-1", (*UNICAST, *VPN),
        hold_s=9, gtsm=True, bfd=BFD(), is_told=False,
    )  # fmt: skip
    with (
        real_router(kind, directory, [neighbor]) as router,
        speaking(directory, FULL, ALL[0], VPN_ROUTE),
    ):
        until(lambda: router.is_up("10.99.0.11"), f"{kind}: the session is up", 20)
        until(lambda: router.prefixes() == {ALL[0][1]}, f"{kind} has the pod CIDR", 20)
        until(lambda: router.vpn_prefixes() == {VPN_ROUTE[1]}, f"{kind} has the VPN route", 20)


def test_a_wrong_password_keeps_the_session_down(directory: Path) -> None:
    neighbor = Neighbor(ip_address("10.99.0.11"), 65101, "another", hold_s=9, is_told=False)
    with (
        real_router("bird", directory, [neighbor]) as router,
        speaking(directory, {**PEER, "password": "s3cret"}, ALL[0]) as node,
    ):
        until(lambda: node.said().get("states"), "the speaker says something of the session")
        time.sleep(2)
        assert not router.is_up("10.99.0.11")
