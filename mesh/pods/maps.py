"""Rows of this node's pods to and from the entries of ``mg_pod_addr``.

A feature's mark is a field of ``struct pod`` by its name, so that a new mark needs no line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mesh.core.address import decode_address, encode_address
from mesh.core.feature import Entry, Maps
from mesh.core.model import IP
from mesh.core.reconcile import Target
from mesh.pods.rows import LocalPod

POD_MAP = "mg_pod_addr"
DEVICE_MAP = "mg_device"
#: Of ``enum known``: an address of this node without a row in ``mg_pod_addr`` is no pod's.
KNOWN_PODS = "KNOWN_PODS"


def encode_pod(address: IP, row: LocalPod) -> Entry:
    """Entry of ``mg_pod_addr``."""
    return encode_address(address), {
        "ifindex": row.ifindex,
        "identity": row.identity,
        "mac": _bytes(row.mac),
        "host_mac": _bytes(row.host_mac),
        "since": row.since,
        **dict(row.marks),
    }


def decode_pod(key: Any, value: Any, marks: Sequence[str]) -> tuple[IP, LocalPod]:
    """Inverse of ``encode_pod``; ``marks`` are the fields that features write."""
    return decode_address(key["w"]), LocalPod(
        ifindex=int(value["ifindex"]),
        identity=int(value["identity"]),
        mac=value["mac"].tobytes().hex(":"),
        host_mac=value["host_mac"].tobytes().hex(":"),
        marks=tuple((name, int(value[name])) for name in marks),
        since=int(value["since"]),
    )


def device_target(maps: Maps) -> Target[int, str]:
    """``mg_device`` as the target of MAC addresses of pods by the ifindex of the host end."""
    return maps.rows(
        DEVICE_MAP,
        lambda ifindex, mac: (ifindex, {"mac": _bytes(mac)}),
        lambda key, value: (int(key), value["mac"].tobytes().hex(":")),
    )


def _bytes(mac: str) -> list[int]:
    return list(bytes.fromhex(mac.replace(":", "")))


def known_target(maps: Maps) -> Target[str, bool]:
    """``mg_known`` as the target of names of ``enum known``."""
    numbers = maps.enum("known")
    names = {number: name for name, number in numbers.items()}
    return maps.rows(
        "mg_known",
        lambda name, known: (numbers[name], int(known)),
        lambda key, value: (names[int(key)], bool(value)),
    )


def pod_target(maps: Maps, marks: Sequence[str]) -> Target[IP, LocalPod]:
    """``mg_pod_addr`` as the target of rows."""
    return maps.rows(POD_MAP, encode_pod, partial(decode_pod, marks=marks))
