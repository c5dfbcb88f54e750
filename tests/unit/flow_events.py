"""Events as the datapath writes them, built by hand."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, ip_address
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.model import IP, PodKey
from mesh.observe.flows import Flows, Names

ADDR = np.dtype([("w", ">u4", (4,))])
EVENT = np.dtype(
    [
        ("time", "<u8"),
        ("source", ADDR),
        ("destination", ADDR),
        ("translated", ADDR),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("translated_port", ">u2"),
        ("protocol", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("point", "u1"),
        ("tcp_flags", "u1"),
        ("pad", "u1"),
        ("source_identity", "<u4"),
        ("destination_identity", "<u4"),
        ("ifindex", "<u4"),
        ("length", "<u4"),
        ("lost", "<u4"),
    ]
)
REASONS = {"DROP_NO_NAT_MAPPING": 167, "DROP_INVALID_SOURCE_IP": 132, "DROP_NO_BLOCK": 222}
CLIENT, WEB, LEGACY = "10.1.0.5", "10.2.0.9", "192.0.2.10"
CLIENT_ID, WEB_ID, WORLD = 70001, 140001, 2
LABELS = {
    CLIENT_ID: "k8s:app=client;k8s:io.cilium.k8s.policy.cluster=east;"
    "k8s:io.kubernetes.pod.namespace=shop;",
    WEB_ID: "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=west;"
    "k8s:io.kubernetes.pod.namespace=shop;",
}
PODS: dict[IP, PodKey] = {ip_address(CLIENT): PodKey("east", "shop", "client-1")}
NAMES = Names(lambda identity: LABELS.get(identity, ""), PODS.get)


def words(address: str) -> npt.NDArray[Any]:
    ip = ip_address(address)
    raw = bytes(10) + b"\xff\xff" + ip.packed if isinstance(ip, IPv4Address) else ip.packed
    return np.frombuffer(raw, ADDR)[0]


def event(**fields: Any) -> npt.NDArray[Any]:
    """A new TCP connection from the client to web, with ``fields`` changed."""
    values: dict[str, Any] = {
        "time": time.monotonic_ns(),
        "source": CLIENT,
        "destination": WEB,
        "source_port": 40000,
        "destination_port": 8080,
        "protocol": 6,
        "verdict": 1,
        "point": 5,
        "tcp_flags": 2,
        "source_identity": CLIENT_ID,
        "destination_identity": WEB_ID,
    } | fields
    one = np.zeros(1, EVENT)
    for name, value in values.items():
        one[name] = words(value) if isinstance(value, str) else value
    return one


def translated(**fields: Any) -> npt.NDArray[Any]:
    """A new connection of the client to the legacy server, translated."""
    legacy: dict[str, Any] = {
        "destination": LEGACY,
        "destination_identity": WORLD,
        "destination_port": 80,
        "translated": "198.51.100.10",
        "translated_port": 1030,
        "point": 11,
    }
    return event(**legacy | fields)


def drop(**fields: Any) -> npt.NDArray[Any]:
    """A UDP packet to the legacy server, dropped for want of a mapping."""
    lost: dict[str, Any] = {
        "destination": LEGACY,
        "destination_identity": WORLD,
        "destination_port": 53,
        "protocol": 17,
        "tcp_flags": 0,
        "verdict": 2,
        "reason": 167,
    }
    return event(**lost | fields)


def ping6(**fields: Any) -> npt.NDArray[Any]:
    """An ICMPv6 echo request between pods, seen where it reaches the pod."""
    echo: dict[str, Any] = {
        "source": "fd01::5",
        "destination": "fd02::9",
        "protocol": 58,
        "source_port": 128 << 8,
        "destination_port": 77,
        "tcp_flags": 0,
        "point": 101,
    }
    return event(**echo | fields)


def flows(*events: npt.NDArray[Any], kept: int = 64) -> Flows:
    """The flows of node east-1."""
    made = Flows("east", "east-1", REASONS, NAMES, kept)
    for one in events:
        made.append(one)
    return made
