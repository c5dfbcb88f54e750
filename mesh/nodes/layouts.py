"""Maps of former versions: pod CIDRs had no zone in their bits, nodes no flags, MTU and port."""

from __future__ import annotations

from bpf.migrate import Added, Converter, Declared, Entries, Scratch

#: Bits of an LPM key that stand before the address: its zone (``struct cidr_key``).
_ZONE_BITS = 32


def _bits_of_prefix(old: Entries, new: Entries) -> None:
    new.keys["bits"] = old.keys["prefix"] + _ZONE_BITS


def _prefix_of_bits(old: Entries, new: Entries) -> None:
    new.keys["prefix"] = old.keys["bits"] - _ZONE_BITS


DECLARED: Declared = (
    Added("mg_node", ("value.flags",)),
    Added("mg_node", ("value.route_mtu", "value.asked", "value.mtu")),
    Added("mg_node", ("value.port",)),
    Scratch("mg_port"),  # of the rows of nodes; the agent says it anew
    Added("mg_addr_cidr", ("key.zone",)),
    Converter("mg_addr_cidr", ("key.prefix",), ("key.bits",), _bits_of_prefix),
    Converter("mg_addr_cidr", ("key.bits",), ("key.prefix",), _prefix_of_bits),
    Scratch("mg_echo"),  # questions of the last two seconds
)
