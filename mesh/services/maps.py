"""Rows of services to and from the entries of ``mg_service_addr`` and ``mg_backend_addr``.

Fields go by name; the layouts and byte orders come from BTF, so numbers here are plain integers.
``ServiceTarget`` tells the allocator of slots what ``mg_service_addr`` holds.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from functools import partial
from socket import IPPROTO_TCP, IPPROTO_UDP
from typing import Any

import numpy as np

from mesh.core.address import decode_address, encode_address
from mesh.core.feature import Entry, Maps
from mesh.core.model import IP
from mesh.core.reconcile import Errors, Target
from mesh.core.table import Source
from mesh.services.backends import BackendAddress, Owner, ServiceAddress
from mesh.services.slots import SlotRange, Slots

SERVICE_MAP = "mg_service_addr"
BACKEND_MAP = "mg_backend_addr"
#: Addresses of services, whatever the port.
ADDRESS_MAP = "mg_service_ip"

#: Of services, by the name that documents have.
PROTOCOLS = {"TCP": int(IPPROTO_TCP), "UDP": int(IPPROTO_UDP)}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def encode_service(ask: ServiceAddress, row: SlotRange) -> Entry:
    """Entry of ``mg_service_addr``."""
    address = encode_address(ask.address)
    key = {"address": address, "port": ask.port, "protocol": PROTOCOLS[ask.protocol]}
    return key, {"first": row.first, "count": row.count}


def decode_service(key: Any, value: Any) -> tuple[ServiceAddress, SlotRange]:
    """Inverse of ``encode_service``."""
    protocol = PROTOCOL_NAMES[int(key["protocol"])]
    ask = ServiceAddress(decode_address(key["address"]), int(key["port"]), protocol)
    return ask, SlotRange(int(value["first"]), int(value["count"]))


def encode_backend(slot: int, row: BackendAddress) -> Entry:
    """Entry of ``mg_backend_addr``."""
    return slot, {"address": encode_address(row.address), "port": row.port}


def decode_backend(key: Any, value: Any) -> tuple[int, BackendAddress]:
    """Inverse of ``encode_backend``."""
    return int(key), BackendAddress(decode_address(value["address"]), int(value["port"]))


def service_map(maps: Maps) -> Target[ServiceAddress, SlotRange]:
    """``mg_service_addr`` as a target."""
    return maps.rows(SERVICE_MAP, encode_service, decode_service)


def backend_map(maps: Maps) -> Target[int, BackendAddress]:
    """``mg_backend_addr`` as a target."""
    return maps.rows(BACKEND_MAP, encode_backend, decode_backend)


def encode_ip(address: IP, owner: Owner, numbers: Mapping[str, int]) -> Entry:
    """Entry of ``mg_service_ip``; ``numbers`` is BTF's ``enum service_owner``."""
    return encode_address(address), np.uint32(numbers[owner.value]).tobytes()


def decode_ip(key: Any, value: Any, numbers: Mapping[str, int]) -> tuple[IP, Owner]:
    """Inverse of ``encode_ip``."""
    names = {number: name for name, number in numbers.items()}
    return decode_address(key["w"]), Owner(names[int(value)])


def address_map(maps: Maps) -> Target[IP, Owner]:
    """``mg_service_ip`` as a target."""
    numbers = maps.enum("service_owner")
    encode, decode = partial(encode_ip, numbers=numbers), partial(decode_ip, numbers=numbers)
    return maps.rows(ADDRESS_MAP, encode, decode)


class Released(Source):
    """Wakes the derivation that gives slots back and fills them."""

    def tell(self) -> None:
        """Entries have changed so that slots are free, or may be used otherwise."""
        self.revision += 1
        self._wake()


class ServiceTarget:
    """``mg_service_addr``, with a note to ``slots`` of each entry before and after it changes."""

    def __init__(
        self, target: Target[ServiceAddress, SlotRange], slots: Slots, released: Released
    ) -> None:
        self.name = target.name
        self._target = target
        self._slots = slots
        self._released = released

    async def read(self) -> Mapping[ServiceAddress, SlotRange]:
        rows = await self._target.read()
        self._slots.found(rows)
        self._tell()
        return rows

    async def upsert(self, rows: Mapping[ServiceAddress, SlotRange]) -> Errors[ServiceAddress]:
        stale = self._slots.writing(rows)
        rows = {ask: row for ask, row in rows.items() if ask not in stale}
        failed = await self._target.upsert(rows)
        self._slots.written(rows, failed)
        self._tell()
        return {**failed, **{ask: _stale() for ask in stale}}

    async def delete(self, keys: Collection[ServiceAddress]) -> Errors[ServiceAddress]:
        failed = await self._target.delete(keys)
        self._slots.removed([ask for ask in keys if ask not in failed])
        self._tell()
        return failed

    def _tell(self) -> None:
        if self._slots.due:
            self._released.tell()


def _stale() -> OSError:
    return OSError(errno.ESTALE, "the slots of this row have been given away meanwhile")
