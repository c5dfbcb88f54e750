"""Rows of VRFs and SIDs to and from the entries of their maps (``vrf.h``, ``sid.h``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Any

from mesh.core.address import decode_address, decode_prefix, encode_address, encode_prefix
from mesh.core.feature import Entry
from mesh.core.model import Network
from srv6.vrf.rows import (
    MOST_PATHS,
    MOST_SEGMENTS,
    LocalSID,
    SRv6Source,
    VRFLink,
    VRFPath,
    VRFPod,
    VRFRoute,
    ZonedAddress,
    ZonedPrefix,
)

#: Names of ``enum sid_behaviour``, by the name of the behaviour without its NEXT-C-SID form.
_BEHAVIOURS: Mapping[str, str] = {
    "End": "SID_END", "End.DT4": "SID_END_DT4", "End.DT6": "SID_END_DT6",
    "End.DT46": "SID_END_DT46",
}  # fmt: skip
_CSID: Mapping[str, str] = {
    "uN": "End", "uDT4": "End.DT4", "uDT6": "End.DT6", "uDT46": "End.DT46",
}  # fmt: skip
#: Bits in front of the address in ``struct cidr_key``: the zone.
_BEFORE = 32


def encode_link(ifindex: int, row: VRFLink, flags: Mapping[str, int]) -> Entry:
    """Entry of ``mg_vrf_link``; ``flags`` is ``enum vrf_link_flag``."""
    return ifindex, {"vrf": row.vrf, "flags": flags["VRF_TENANT"] if row.tenant else 0}


def decode_link(key: Any, value: Any, flags: Mapping[str, int]) -> tuple[int, VRFLink]:
    """Inverse of ``encode_link``."""
    tenant = bool(int(value["flags"]) & flags["VRF_TENANT"])
    return int(key), VRFLink(int(value["vrf"]), tenant)


def _encode_zoned(key: ZonedAddress) -> dict[str, object]:
    return {**encode_address(key.address), "zone": key.zone}


def _decode_zoned(key: Any) -> ZonedAddress:
    return ZonedAddress(int(key["zone"]), decode_address(key["w"]))


def encode_pod(key: ZonedAddress, row: VRFPod) -> Entry:
    """Entry of ``mg_vrf_pod``."""
    value = {"ifindex": row.ifindex, "identity": row.identity}
    macs = {"mac": _bytes(row.mac), "host_mac": _bytes(row.host_mac)}
    return _encode_zoned(key), {**value, **macs, **dict(row.marks)}


def decode_pod(key: Any, value: Any, marks: Sequence[str]) -> tuple[ZonedAddress, VRFPod]:
    """Inverse of ``encode_pod``; ``marks`` are the fields that features write."""
    return _decode_zoned(key), VRFPod(
        int(value["ifindex"]),
        int(value["identity"]),
        value["mac"].tobytes().hex(":"),
        value["host_mac"].tobytes().hex(":"),
        tuple((name, int(value[name])) for name in marks),
    )


def _bytes(mac: str) -> list[int]:
    return list(bytes.fromhex(mac.replace(":", "")))


def encode_destination(key: ZonedPrefix, _: None) -> Entry:
    """Entry of ``mg_vrf_dest``: bits of the prefix, because ``::/0`` would hold IPv4, too."""
    return _encode_prefix(key), encode_prefix(key.prefix)[0]


def decode_destination(key: Any, _: Any) -> tuple[ZonedPrefix, None]:
    """Inverse of ``encode_destination``."""
    return _decode_prefix(key), None


def _encode_prefix(key: ZonedPrefix) -> dict[str, object]:
    bits, address = encode_prefix(key.prefix)
    return {"bits": _BEFORE + bits, "zone": key.zone, "addr": address}


def _decode_prefix(key: Any) -> ZonedPrefix:
    prefix = decode_prefix(int(key["bits"]) - _BEFORE, key["addr"])
    return ZonedPrefix(int(key["zone"]), prefix)


def encode_route(key: ZonedPrefix, row: VRFRoute, flags: Mapping[str, int]) -> Entry:
    """Entry of the maps of prefixes; ``flags`` is ``enum vrf_route_flag``."""
    return _encode_prefix(key), _route_value(key.prefix, row, flags)


def encode_host(key: ZonedPrefix, row: VRFRoute, flags: Mapping[str, int]) -> Entry:
    """Entry of the maps of hosts."""
    return _encode_zoned(key.host), _route_value(key.prefix, row, flags)


def _route_value(prefix: Network, row: VRFRoute, flags: Mapping[str, int]) -> dict[str, object]:
    bits, _ = encode_prefix(prefix)
    return {
        "via": [*row.via, *[0] * (MOST_PATHS - len(row.via))],
        "identity": row.identity,
        "paths": len(row.via),
        "flags": flags["VRF_CLOSED"] if row.closed else 0,
        "bits": bits,
    }


def decode_route(key: Any, value: Any, flags: Mapping[str, int]) -> tuple[ZonedPrefix, VRFRoute]:
    """Inverse of ``encode_route``."""
    return _decode_prefix(key), route_of(value, flags)


def decode_host(key: Any, value: Any, flags: Mapping[str, int]) -> tuple[ZonedPrefix, VRFRoute]:
    """Inverse of ``encode_host``."""
    zoned = _decode_zoned(key)
    return ZonedPrefix(zoned.zone, ip_network(zoned.address)), route_of(value, flags)


def host_key(key: ZonedPrefix) -> dict[str, object]:
    """Key of the maps of hosts."""
    return _encode_zoned(key.host)


def route_of(value: Any, flags: Mapping[str, int]) -> VRFRoute:
    """Value of the maps of hosts and prefixes."""
    via = tuple(int(number) for number in value["via"][: int(value["paths"])])
    return VRFRoute(via, int(value["identity"]), bool(int(value["flags"]) & flags["VRF_CLOSED"]))


def encode_path(number: int, row: VRFPath, flags: Mapping[str, int]) -> Entry:
    """Entry of ``mg_vrf_via``; ``flags`` is ``enum vrf_via_flag``.

    ValueError for more segments than a path may have.
    """
    if len(row.segments) > MOST_SEGMENTS:
        raise ValueError(f"{len(row.segments)} segments, a path has at most {MOST_SEGMENTS}")
    padded = (*row.segments, *[IPv6Address(0)] * (MOST_SEGMENTS - len(row.segments)))
    return number, {
        "segment": [(encode_address(one)["w"],) for one in padded],
        "source": encode_address(row.source),
        "bfd": row.bfd,
        "segments": len(row.segments),
        "flags": flags["VIA_IDENTITY"] if row.argument else 0,
        "argument": row.argument,
    }


def decode_path(key: Any, value: Any, flags: Mapping[str, int]) -> tuple[int, VRFPath]:
    """Inverse of ``encode_path``."""
    segments = tuple(_ipv6(cell) for cell in value["segment"][: int(value["segments"])])
    argument = int(value["argument"]) if int(value["flags"]) & flags["VIA_IDENTITY"] else 0
    return int(key), VRFPath(segments, _ipv6(value["source"]), argument, int(value["bfd"]))


def _ipv6(cell: Any) -> IPv6Address:
    return IPv6Address(cell.tobytes())


def encode_sid(
    key: IPv6Address, row: LocalSID, behaviours: Mapping[str, int], flavours: Mapping[str, int]
) -> Entry:
    """Entry of ``mg_sid``; the enums are ``sid_behaviour`` and ``sid_flavour``."""
    names = ["SID_PSP", "SID_USD"] if row.behaviour in ("End", "uN") else []
    names += ["SID_NEXT_CSID"] if row.next_csid else []
    names += ["SID_IDENTITY"] if row.identity else []
    name = _BEHAVIOURS[_CSID.get(row.behaviour, row.behaviour)]
    return encode_address(key), {
        "vrf": row.vrf,
        "behaviour": behaviours[name],
        "flavours": sum(flavours[one] for one in names),
        "block": row.block,
        "node": row.node,
        "function": row.function,
        "argument": row.argument,
    }


def decode_sid(
    key: Any, value: Any, behaviours: Mapping[str, int], flavours: Mapping[str, int]
) -> tuple[IPv6Address, LocalSID]:
    """Inverse of ``encode_sid``."""
    flags, number = int(value["flavours"]), int(value["behaviour"])
    csid = bool(flags & flavours["SID_NEXT_CSID"])
    name = next((n for n, c in _BEHAVIOURS.items() if behaviours[c] == number), str(number))
    if csid:
        name = next((n for n, plain in _CSID.items() if plain == name), name)
    return _ipv6(key), LocalSID(
        name,
        int(value["vrf"]),
        int(value["block"]),
        int(value["node"]),
        csid,
        bool(flags & flavours["SID_IDENTITY"]),
    )


def _encode_ipv6(prefix: IPv6Network) -> dict[str, object]:
    return {"bits": prefix.prefixlen, "addr": encode_address(prefix.network_address)}


def _decode_ipv6(key: Any) -> IPv6Network:
    return IPv6Network((_ipv6(key["addr"]), int(key["bits"])))


def encode_source(key: IPv6Network, row: SRv6Source, flags: Mapping[str, int]) -> Entry:
    """Entry of ``mg_srv6_domain``; ``flags`` is ``enum srv6_source_flag``."""
    node = flags["SRV6_NODE"] if row.cluster else 0
    return _encode_ipv6(key), {"flags": node, "cluster": row.cluster}


def decode_source(key: Any, value: Any, flags: Mapping[str, int]) -> tuple[IPv6Network, SRv6Source]:
    """Inverse of ``encode_source``."""
    node = int(value["flags"]) & flags["SRV6_NODE"]
    return _decode_ipv6(key), SRv6Source(int(value["cluster"]) if node else 0)


def encode_locator(key: IPv6Network, row: tuple[int, int, int, int]) -> Entry:
    """Entry of ``mg_sid_locator``: lengths of block, node, function and argument."""
    names = ("block", "node", "function", "argument")
    return _encode_ipv6(key), dict(zip(names, row, strict=True))


def decode_locator(key: Any, value: Any) -> tuple[IPv6Network, tuple[int, int, int, int]]:
    """Inverse of ``encode_locator``."""
    lengths = (int(value[name]) for name in ("block", "node", "function", "argument"))
    block, node, function, argument = lengths
    return _decode_ipv6(key), (block, node, function, argument)


# --- Both ways, for a map ----------------------------------------------------------------------

Numbers = Mapping[str, int]
_Codec = tuple[Callable[[Any, Any], Entry], Callable[[Any, Any], Any]]


def links(flags: Numbers) -> _Codec:
    """``mg_vrf_link``; ``flags`` is ``enum vrf_link_flag``."""
    return partial(encode_link, flags=flags), partial(decode_link, flags=flags)


def pods(marks: Sequence[str]) -> _Codec:
    """``mg_vrf_pod``; ``marks`` are the fields that features write."""
    return encode_pod, partial(decode_pod, marks=marks)


def hosts(flags: Numbers) -> _Codec:
    """``mg_vrf_host`` and ``mg_vrf_bgp_host``; ``flags`` is ``enum vrf_route_flag``."""
    return partial(encode_host, flags=flags), partial(decode_host, flags=flags)


def prefixes(flags: Numbers) -> _Codec:
    """``mg_vrf_prefix`` and ``mg_vrf_bgp``; ``flags`` is ``enum vrf_route_flag``."""
    return partial(encode_route, flags=flags), partial(decode_route, flags=flags)


def paths(flags: Numbers) -> _Codec:
    """``mg_vrf_via`` and ``mg_vrf_bgp_via``; ``flags`` is ``enum vrf_via_flag``."""
    return partial(encode_path, flags=flags), partial(decode_path, flags=flags)


def sids(behaviours: Numbers, flavours: Numbers) -> _Codec:
    """``mg_sid``; the enums are ``sid_behaviour`` and ``sid_flavour``."""
    encode = partial(encode_sid, behaviours=behaviours, flavours=flavours)
    return encode, partial(decode_sid, behaviours=behaviours, flavours=flavours)


def sources(flags: Numbers) -> _Codec:
    """``mg_srv6_domain``; ``flags`` is ``enum srv6_source_flag``."""
    return partial(encode_source, flags=flags), partial(decode_source, flags=flags)
