"""UDP ports that objects declare: of containers, and those that services lead to (S10)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import numpy as np

from gateway.declared import (
    DeclaredAgent,
    DeclaredPort,
    datagram_backends,
    declared_ports,
    decode_port,
    encode_port,
)
from mesh.core.model import IP, Backend, LinkKey, Pod, PodKey, Service, ServiceKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table

V4, V6, OTHER = (ip_address(text) for text in ("10.1.0.7", "fd01::7", "10.1.1.7"))
KEY = PodKey("east", "shop", "dns-1")
DNS = ServiceKey("east", "shop", "dns")


def pod(*ports: int) -> Pod:
    return Pod("east", "shop", "dns-1", "east-1", addresses=(V4, V6), datagram_ports=ports)


def service(*backends: tuple[IP, int, str]) -> Service:
    rows = tuple(Backend(ip, port, "p", protocol, "east") for ip, port, protocol in backends)
    return Service("east", "shop", "dns", (), (), backends=rows)


def ports_of(address: IP, *ports: int) -> set[DeclaredPort]:
    return {DeclaredPort(address, port) for port in ports}


def test_containers_and_services_declare() -> None:
    leads = service((V4, 5353, "UDP"), (V4, 443, "TCP"), (OTHER, 99, "UDP"))
    assert set(declared_ports(V4, {KEY: pod(53)}, {DNS: leads})) == ports_of(V4, 53, 5353)
    assert set(declared_ports(V6, {KEY: pod(53)}, {})) == ports_of(V6, 53)
    assert declared_ports(V4, {KEY: pod()}, {}) == {}


def test_a_service_without_datagrams_concerns_nobody() -> None:
    assert datagram_backends(service((V4, 443, "TCP"))) == set()


def test_only_addresses_of_pods_of_this_node_have_rows() -> None:
    loop, pods = Loop(), Table[LinkKey, Pod]("pods")
    services = Table[ServiceKey, Service]("services")
    agent = DeclaredAgent(pods, services)
    agent.derive(loop)
    services.replace({DNS: service((V4, 5353, "UDP"), (OTHER, 5353, "UDP"))})
    pods.replace({KEY: pod(53)})
    loop.derive_all()
    assert set(agent.port.rows) == ports_of(V4, 53, 5353) | ports_of(V6, 53)
    services.replace({})
    loop.derive_all()
    assert set(agent.port.rows) == ports_of(V4, 53) | ports_of(V6, 53)
    pods.replace({})
    loop.derive_all()
    assert agent.port.rows == {}


def test_an_entry_reads_back_whatever_bpf_has_noted() -> None:
    for address in (V4, V6):
        row = DeclaredPort(address, 53)
        name: Any = encode_port(*rows_of(row))[0]
        cell = np.zeros((), [("pod", [("w", ">u4", (4,))]), ("port", ">u2"), ("protocol", "u1")])
        cell["pod"]["w"], cell["port"] = name["pod"]["w"], name["port"]
        assert decode_port(cell, {"translated": 7}) == rows_of(row)


def rows_of(key: DeclaredPort) -> tuple[DeclaredPort, bool]:
    return key, True
