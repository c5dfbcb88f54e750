"""In which order a host begins to forward, so that it loses no route. Pure.

Linux (``addrconf_fixup_forwarding``, ``rt6_purge_dflt_routers`` of net/ipv6): when forwarding is
turned on for all devices, every device becomes a router at once. A router ignores router
advertisements, and the default routes learned from them are deleted, unless the device's
``accept_ra`` is 2 at that moment. Linux forwards IPv6 only when it is on for all devices; IPv4 is
forwarded device by device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from mesh.host.settings import ACCEPT_RA, FORWARD_4, FORWARD_6, FORWARD_ALL_6


@dataclass(frozen=True, slots=True)
class Interface:
    """``forwarding`` and ``accept_ra`` of a device in net/ipv6/conf, ``default`` among them."""

    forwarding: str
    accept_ra: str


@dataclass(frozen=True, slots=True)
class Step:
    """One write. ``passing``: it takes back what another step has done to a device of others."""

    name: str
    value: str
    passing: bool = False


def steps(
    all_forwards: bool,  # noqa: FBT001 - what the kernel says
    devices: Mapping[str, Interface],
    ours: Collection[str],
    uplink: str,
) -> Iterator[Step]:
    """What is to be written, in this order, so that our devices forward.

    ``ours`` are the uplink and mg_vxlan. Devices of others are at the end as they were.
    """
    for name in ours:
        yield Step(FORWARD_4.format(device=name), "1")
    if all_forwards:
        yield Step(FORWARD_ALL_6, "1")
    else:
        yield from _become_router(devices, ours, uplink)
    for name in ours:
        yield Step(FORWARD_6.format(device=name), "1")


def _become_router(
    devices: Mapping[str, Interface], ours: Collection[str], uplink: str
) -> Iterator[Step]:
    learning = [name for name, one in devices.items() if one.accept_ra == "1"]
    for name in learning:
        yield Step(ACCEPT_RA.format(device=name), "2", passing=name != uplink)
    yield Step(FORWARD_ALL_6, "1")
    for name, one in devices.items():
        if name not in ours and one.forwarding == "0":
            yield Step(FORWARD_6.format(device=name), "0", passing=True)
    for name in learning:
        if name != uplink:
            yield Step(ACCEPT_RA.format(device=name), "1", passing=True)
