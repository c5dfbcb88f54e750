"""What names in two layouts cannot tell, of maps that no feature's own module declares.

A row stays until no agent of the version before it can be running.
"""

from __future__ import annotations

from bpf.migrate import Added, Converter, Declared, Entries

#: Bits of an LPM key that stand before the address: its zone (``struct cidr_key``).
_ZONE_BITS = 32
#: Maps whose keys have had a zone since networks may overlap; in zone 0 nothing has changed.
_ZONED = (
    "mg_address", "mg_addr_cidr", "mg_pod_addr", "mg_service_addr", "mg_frag",
    "mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6",
)  # fmt: skip


def _bits_of_prefix(old: Entries, new: Entries) -> None:
    new.keys["bits"] = old.keys["prefix"] + _ZONE_BITS


def _prefix_of_bits(old: Entries, new: Entries) -> None:
    new.keys["prefix"] = old.keys["bits"] - _ZONE_BITS


def _protocol(old: Entries, new: Entries) -> None:
    new.keys["protocol"] = old.keys["protocol"]


DECLARED: Declared = (
    *(Added(name, ("key.zone",)) for name in _ZONED),
    Added("mg_nat_v4", ("value.zone",)),
    Added("mg_nat_v6", ("value.zone",)),
    Added("mg_zone"),
    Converter("mg_addr_cidr", ("key.prefix",), ("key.bits",), _bits_of_prefix),
    Converter("mg_addr_cidr", ("key.bits",), ("key.prefix",), _prefix_of_bits),
    # Four bytes, one of which was ever used; the others hold the zone now.
    Converter("mg_frag", ("key.protocol",), ("key.protocol",), _protocol),
)
