"""Answers in the form of each version. Pure.

Source: CNI SPEC.md: results of 0.3.1 and 0.4.0 say the family of an address, those of 1.0.0 do not,
those of 1.1.0 have the MTU of an interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_interface
from typing import Any

import msgspec

from mesh.cni import versions
from mesh.cni.frames import Reply
from mesh.cni.requests import Code, RefusedError, RuntimeCall
from mesh.core.model import IP, Connection
from mesh.kernel import GATEWAY_V4, GATEWAY_V6

_POD_END = 1
_GATEWAYS = {4: GATEWAY_V4, 6: GATEWAY_V6}


def added(asked: RuntimeCall, connection: Connection) -> Reply:
    """What ADD answers: both ends, the pod's addresses and its default routes."""
    here: dict[str, object] = {"name": connection.device, "mac": connection.host_mac}
    there: dict[str, object] = {"name": asked.interface, "mac": connection.mac}
    there["sandbox"] = asked.netns
    if versions.at_least(asked.version, "1.1.0"):
        here["mtu"] = there["mtu"] = connection.mtu
    return printed(
        {
            "cniVersion": asked.version,
            "interfaces": [here, there],
            "ips": [_address(asked.version, one) for one in connection.addresses],
            "routes": [_route(version) for version in _families(connection.addresses)],
            "dns": {},
        }
    )


def _address(version: str, address: IP) -> dict[str, object]:
    row: dict[str, object] = {
        "address": f"{address}/{address.max_prefixlen}",
        "gateway": str(_GATEWAYS[address.version]),
        "interface": _POD_END,
    }
    return row if versions.at_least(version, "1.0.0") else {"version": str(address.version), **row}


def _route(version: int) -> dict[str, object]:
    return {"dst": "0.0.0.0/0" if version == 4 else "::/0", "gw": str(_GATEWAYS[version])}


def _families(addresses: tuple[IP, ...]) -> list[int]:
    return list(dict.fromkeys(address.version for address in addresses))


def addresses_in(result: Mapping[str, Any], interface: str, netns: str) -> list[str]:
    """Addresses with their lengths that a result gives to an interface of a namespace.

    An address that names no interface counts for each.
    """
    interfaces = result.get("interfaces") or []
    found = []
    for one in result.get("ips") or []:
        at = one.get("interface")
        mine = at is None or (
            0 <= at < len(interfaces)
            and interfaces[at].get("name") == interface
            and interfaces[at].get("sandbox", netns) == netns
        )
        if mine:
            found.append(str(one.get("address", "")))
    return found


def hosts(addresses: Iterable[str]) -> Iterator[IP]:
    """The addresses of a result, without their lengths. Raises RefusedError."""
    for one in addresses:
        try:
            yield ip_interface(one).ip
        except ValueError as error:
            text = f"prevResult: expected an address with its length, got {one!r}"
            raise RefusedError(Code.CONFIG, text) from error


def passed_on(asked: RuntimeCall) -> Reply:
    """The result of the plugins before ours, as it was."""
    return printed({**(asked.previous or {}), "cniVersion": asked.version})


def spoken(version: str) -> Reply:
    """What VERSION answers."""
    return printed({"cniVersion": version, "supportedVersions": list(versions.SUPPORTED)})


def refused(version: str, error: RefusedError) -> Reply:
    """An error."""
    row = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.details:
        row["details"] = error.details
    return printed(row, 1)


def printed(row: Mapping[str, object], status: int = 0) -> Reply:
    """A JSON document on stdout, with the exit status."""
    return Reply(msgspec.json.encode(row) + b"\n", status)
