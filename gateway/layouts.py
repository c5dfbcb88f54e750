"""Egress maps of two versions: which map holds the ports that a node may open.

In former versions an address had one gateway; now it has a set.
"""

from __future__ import annotations

import numpy as np

from bpf.btf import Dtype
from bpf.migrate import Converter, Declared, Entries, Made, PortRanges, Renamed, Scratch


def _set_of_one(old: Entries, new: Entries) -> None:
    gateway = old.values["gateway"]
    new.values["count"] = gateway != 0
    new.values["node"][:, 0] = gateway


def _one_of_set(old: Entries, new: Entries) -> None:
    new.values["gateway"] = np.where(old.values["count"] > 0, old.values["node"][:, 0], 0)


def _members(old: Entries, key: Dtype, value: Dtype) -> Entries:
    """The gateway of each address takes and gives its packets."""
    has = old.values["gateway"] != 0
    keys, values = np.zeros(has.sum(), key), np.zeros(has.sum(), value)
    keys["address"], keys["node"] = old.keys[has], old.values["gateway"][has]
    values["sends"] = values["accepts"] = 1
    return Entries(keys, values)


DECLARED: Declared = (
    Scratch("mg_egress_pods"),  # the agent's rows; without them nobody is limited
    PortRanges("mg_own_block", size="block_size"),
    Renamed("key.egress", "key.egress_class", map="mg_egress"),
    Converter("mg_egress_addr", ("value.gateway",), ("value.count", "value.node"), _set_of_one),
    Converter("mg_egress_addr", ("value.count", "value.node"), ("value.gateway",), _one_of_set),
    Made("mg_gateway", "mg_egress_addr", ("value.gateway",), _members),
    # Without its rows connections that have ended stand still, as they did before there were any.
    Scratch("mg_ended"),
)
