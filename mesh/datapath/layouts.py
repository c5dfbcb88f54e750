"""What names in two layouts cannot tell, of maps that belong to no feature: connections, fragments.

A row stays until no agent of the version before it can be running.
"""

from __future__ import annotations

from bpf.migrate import Added, Converter, Declared, Entries, Scratch

#: Maps whose keys have had a zone since networks may overlap; in zone 0 nothing has changed.
_ZONED = ("mg_frag", "mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6")


def _protocol(old: Entries, new: Entries) -> None:
    new.keys["protocol"] = old.keys["protocol"]


DECLARED: Declared = (
    *(Added(name, ("key.zone",)) for name in _ZONED),
    Added("mg_nat_v4", ("value.zone",)),
    Added("mg_nat_v6", ("value.zone",)),
    Added("mg_zone"),
    Added("mg_drop", ("value.from_pod", "value.from_overlay")),
    Scratch("mg_reset"),
    # Mappings of before are live as long as their connections are.
    Added("mg_nat_v4", ("value.first", "value.quiet")),
    Added("mg_nat_v6", ("value.first", "value.quiet")),
    Added("mg_ct_v4", ("value.touched",)),
    Added("mg_ct_v6", ("value.touched",)),
    # Runs and bindings came together, so no mapping of before is of a binding.
    Added("mg_nat_v4", ("value.bound",)),
    Added("mg_nat_v6", ("value.bound",)),
    Added("mg_frag", ("value.order",)),
    # Counts, which the first sweep makes anew.
    Scratch("mg_used"),
    Scratch("mg_pod_used"),
    Scratch("mg_told"),
    Scratch("mg_event_rate"),
    Scratch("mg_drop_rate"),
    Scratch("mg_icmp_rate"),
    Scratch("mg_half_open"),
    # Four bytes, one of which was ever used; the others hold the zone now.
    Converter("mg_frag", ("key.protocol",), ("key.protocol",), _protocol),
)
