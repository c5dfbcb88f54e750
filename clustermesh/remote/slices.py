"""Services in their second form on the wire: slices of backends, protobuf packed by zstd.

Cilium 1.20 writes both forms and reads the first one, 1.21 reads this one. A slice names its
service by a label. All endpoints of a slice listen on the same ports and are of one family.
Source: ``reference/clustermesh-wire.md`` 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import zstandard
from google.protobuf.message import DecodeError

from clustermesh.remote import slice_pb2 as pb
from clustermesh.remote.wire import PROTOCOLS, WireError, parse_ip
from mesh.core.model import Backend, Service, ServiceKey

SERVICE_LABEL = "kubernetes.io/service-name"
#: Endpoints that a slice of ours has at most, on average half of them: a change of one backend
#: writes one slice.
_ENDPOINTS = 100
#: Bytes of a slice that another program has packed: 1000 endpoints with long names have a tenth.
_LARGEST = 1 << 20
_PORTS = range(1, 65536)

Ports = tuple[tuple[str, str, int], ...]  # name, protocol, number


@dataclass(frozen=True, slots=True)
class ServiceSlice:
    """Some backends of one service of another cluster."""

    cluster: str
    namespace: str
    name: str
    service: str
    backends: tuple[Backend, ...]

    @property
    def of(self) -> ServiceKey:
        """The service."""
        return ServiceKey(self.cluster, self.namespace, self.service)


def decode(value: bytes) -> pb.ClusterEndpointSlice:
    """The content of a value. Raises WireError."""
    try:
        size = zstandard.get_frame_parameters(value).content_size
        if _LARGEST < size != zstandard.CONTENTSIZE_UNKNOWN:
            raise WireError("", f"unpacks to {size} bytes, more than {_LARGEST}")
        unpacked = zstandard.ZstdDecompressor(max_window_size=8 * _LARGEST).decompress(
            value, max_output_size=_LARGEST
        )
        return pb.ClusterEndpointSlice.FromString(unpacked)
    except (zstandard.ZstdError, DecodeError) as error:
        raise WireError("", f"not readable as a packed slice: {error}") from None


def slice_row(wired: pb.ClusterEndpointSlice) -> ServiceSlice:
    """The row of a slice: its ready endpoints on its ports. Raises WireError naming the field."""
    if wired.addressType not in ("IPv4", "IPv6"):
        raise WireError("addressType", f"{wired.addressType!r} is neither IPv4 nor IPv6")
    version = int(wired.addressType[-1])
    ports = [one for one in map(_port, wired.ports) if one]
    backends: dict[Backend, None] = {}
    for endpoint in wired.endpoints:
        if endpoint.conditions.HasField("ready") and not endpoint.conditions.ready:
            continue
        for text in endpoint.addresses:
            address = parse_ip(text, "endpoints")
            if address.version != version:
                raise WireError("endpoints", f"{text} in a slice of {wired.addressType}")
            for name, protocol, number in ports:
                backends[Backend(address, number, name, protocol, wired.cluster)] = None
    service = wired.labels.get(SERVICE_LABEL, "")
    return ServiceSlice(wired.cluster, wired.namespace, wired.name, service, tuple(backends))


def _port(port: pb.EndpointPort) -> tuple[str, str, int] | None:
    """A port that the datapath can translate; None for others."""
    protocol = port.protocol or "TCP"
    if protocol not in PROTOCOLS or not port.HasField("port"):
        return None
    if port.port not in _PORTS:
        raise WireError("ports", f"{port.port} is no port")
    return port.name, protocol, port.port


def service_of(key: ServiceKey, slices: Iterable[ServiceSlice]) -> Service | None:
    """The service of these slices; None without any."""
    parts = list(slices)
    if not parts:
        return None
    backends = dict.fromkeys(backend for part in parts for backend in part.backends)
    return Service(
        key.cluster, key.namespace, key.name, (), (), is_global=True, backends=tuple(backends)
    )


class Slices:
    """Accepted slices of one cluster by service."""

    def __init__(self) -> None:
        self._of: dict[ServiceKey, dict[str, ServiceSlice]] = {}
        self._changed: dict[ServiceKey, None] = {}

    def put(self, key: str, row: ServiceSlice | None, before: ServiceSlice | None) -> None:
        """Make ``row`` the slice of an etcd key; None: there is none."""
        if before is not None:
            parts = self._of[before.of]
            del parts[key]
            if not parts:
                del self._of[before.of]
            self._changed[before.of] = None
        if row is not None:
            self._of.setdefault(row.of, {})[key] = row
            self._changed[row.of] = None

    def changed(self) -> Iterator[tuple[ServiceKey, Service | None]]:
        """Services whose slices have changed since the last call."""
        changed, self._changed = self._changed, {}
        for service in changed:
            yield service, service_of(service, self._of.get(service, {}).values())

    @property
    def count(self) -> int:
        """How many services there are."""
        return len(self._of)

    def others(self, service: ServiceKey) -> int:
        """How many services there are beside this one."""
        return len(self._of) - (service in self._of)

    @property
    def services(self) -> dict[ServiceKey, Service]:
        """All services."""
        made = {key: service_of(key, parts.values()) for key, parts in self._of.items()}
        return {key: row for key, row in made.items() if row}


def slice_values(service: Service, cluster_id: int) -> Mapping[str, bytes]:
    """Name and value of each slice of a global service.

    An address stays in its slice while the number of slices of its kind stays, so one backend more
    or less writes one slice.
    """
    ports: dict[str, set[tuple[str, str, int]]] = {}
    versions = {}
    for backend in service.backends:
        text = str(backend.address)
        versions[text] = backend.address.version
        ports.setdefault(text, set()).add((backend.port_name, backend.protocol, backend.port))
    alike: dict[tuple[int, Ports], list[str]] = {}
    for text, of_address in ports.items():
        alike.setdefault((versions[text], tuple(sorted(of_address))), []).append(text)
    values = {}
    for (version, of_all), addresses in alike.items():
        kind = f"{service.name}-v{version}-{_digest(repr(of_all)):08x}"
        for number, some in enumerate(_spread(addresses)):
            name = f"{kind}-{number}"
            if some:
                values[name] = _slice_value(service, cluster_id, name, version, of_all, some)
    return values


def _spread(addresses: Sequence[str]) -> Sequence[Sequence[str]]:
    """The addresses over as many lists as keep each short; a power of two, so it changes seldom."""
    count = 1
    while len(addresses) > count * _ENDPOINTS // 2:
        count *= 2
    lists: list[list[str]] = [[] for _ in range(count)]
    for address in sorted(addresses):
        lists[_digest(address) % count].append(address)
    return lists


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big")


def _slice_value(
    service: Service,
    cluster_id: int,
    name: str,
    version: int,
    ports: Ports,
    addresses: Sequence[str],
) -> bytes:
    wired = pb.ClusterEndpointSlice(
        cluster=service.cluster,
        clusterID=cluster_id,
        namespace=service.namespace,
        name=name,
        labels={SERVICE_LABEL: service.name},
        addressType=f"IPv{version}",
        endpoints=[pb.Endpoint(addresses=[address], conditions=_READY) for address in addresses],
        ports=[
            pb.EndpointPort(name=port, protocol=protocol, port=number)
            for port, protocol, number in ports
        ],
    )
    return _PACKER.compress(wired.SerializeToString(deterministic=True))


_READY = pb.Conditions(ready=True, serving=True, terminating=False)
_PACKER = zstandard.ZstdCompressor(level=3)
