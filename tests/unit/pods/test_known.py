"""The datapath takes an address for a gone pod's only after every pod of the node has a row."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from tests.fixtures.rooms import Rooms


def test_pods_are_known_once_their_table_is_synced(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, ip_network("10.1.0.0/24"))
    pods = rooms.pods
    pods.devices.hold(rooms)
    rooms.egress.derive(rooms.loop)
    pods.derive(rooms.loop)
    rooms.loop.derive_all()
    assert (pods.complete_pods.synced, dict(pods.complete_pods.rows)) == (False, {})
    pods.devices.release(rooms)
    rooms.loop.derive_all()
    assert (pods.complete_pods.synced, dict(pods.complete_pods.rows)) == (
        True,
        {"KNOWN_PODS": True},
    )
