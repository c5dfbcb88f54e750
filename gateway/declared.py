"""UDP ports on which this node's pods take datagrams, as objects declare: S10's rule for UDP.

    pods of this node, services with their backends -> declared port -> mg_declared

A covered pod answers from them with its own address (``egress_exempt`` in ``egress.h``). From every
other port a datagram is a question of the pod, and is translated.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.core.address import decode_address, encode_address
from mesh.core.feature import AgentFeature, Entry, Maps
from mesh.core.groups import By
from mesh.core.model import IP, LinkKey, Pod, Service, ServiceKey
from mesh.core.reconcile import Loop
from mesh.core.table import Table

PORT_MAP = "mg_declared"
#: The consequence when the map is full.
WITHOUT_PORT = (
    "covered pods answer from the UDP ports that do not fit with an egress address: whoever asks "
    "them from outside does not know the answers"
)


@dataclass(frozen=True, slots=True)
class DeclaredPort:
    """A UDP port of an address of a pod of this node."""

    address: IP
    port: int


class DeclaredAgent(AgentFeature):
    """``pods`` are this node's, with their addresses; ``services`` those of the own cluster."""

    def __init__(self, pods: Table[LinkKey, Pod], services: Table[ServiceKey, Service]) -> None:
        self.port: Table[DeclaredPort, bool] = Table("declared port")
        self._pods, self._services = pods, services

    def derive(self, loop: Loop) -> None:
        loop.group(
            self.port,
            declared_ports,
            By(self._pods, lambda _, pod: pod.addresses, needed=True),
            By(self._services, lambda _, service: datagram_backends(service)),
        )

    def apply(self, loop: Loop, maps: Maps) -> None:
        loop.apply(
            self.port,
            maps.rows(PORT_MAP, encode_port, decode_port),
            capacity=maps.capacity(PORT_MAP),
            meaning=WITHOUT_PORT,
        )


def datagram_backends(service: Service) -> set[IP]:
    """Addresses of the backends of a service that take datagrams."""
    return {one.address for one in service.backends if one.protocol == "UDP"}


def declared_ports(
    address: IP, pods: Mapping[LinkKey, Pod], services: Mapping[ServiceKey, Service]
) -> dict[DeclaredPort, bool]:
    """The ports of one address: of the containers, and those that services lead to."""
    ports = {port for pod in pods.values() for port in pod.datagram_ports}
    for service in services.values():
        ports |= {
            one.port for one in service.backends if one.protocol == "UDP" and one.address == address
        }
    return {DeclaredPort(address, port): True for port in sorted(ports)}


def encode_port(key: DeclaredPort, _: object) -> Entry:
    """Entry of ``mg_declared``; when the port was used by a translation is BPF's to say."""
    name = {"pod": encode_address(key.address), "port": key.port, "protocol": socket.IPPROTO_UDP}
    return name, {"translated": 0}


def decode_port(key: Any, _: Any) -> tuple[DeclaredPort, bool]:
    """Inverse of ``encode_port``."""
    return DeclaredPort(decode_address(key["pod"]), int(key["port"])), True
