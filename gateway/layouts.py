"""Egress maps of two versions: which map holds the ports that a node may open.

In former versions an address had one gateway; now it has a set.
"""

from __future__ import annotations

import numpy as np

from bpf.btf import Dtype
from bpf.migrate import Added, Converter, Declared, Entries, Made, PortRanges, Renamed, Scratch


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


def _own_blocks(old: Entries, new: Entries) -> None:
    """A former version opens ports of 16 blocks at most."""
    most = min(old.values["number"].shape[1], new.values["number"].shape[1])
    new.values["number"][:, :most] = old.values["number"][:, :most]
    new.values["count"] = np.minimum(old.values["count"], most)


#: Without its rows the sweep lends each run anew to the pod that uses it.
_RUNS = ("mg_run", "mg_block_runs", "mg_pod_runs", "mg_lent")

#: A former version goes on with the connections of bindings, and opens none by them.
_BINDINGS = ("mg_bind",)

#: A former version announces nothing on layer 2.
_LAYER2 = ("mg_layer2", "mg_layer2_seen")

DECLARED: Declared = (
    Scratch("mg_egress_pods"),  # the agent's rows; without them nobody is limited
    PortRanges("mg_own_block", size="block_size"),
    Renamed("key.egress", "key.egress_class", map="mg_egress"),
    Converter("mg_egress_addr", ("value.gateway",), ("value.count", "value.node"), _set_of_one),
    Converter("mg_egress_addr", ("value.count", "value.node"), ("value.gateway",), _one_of_set),
    Added("mg_gateway", ("value.seen",)),
    Made("mg_gateway", "mg_egress_addr", ("value.gateway",), _members),
    # Without its rows connections that have ended stand still, as they did before there were any.
    Scratch("mg_ended"),
    Added("mg_egress_label"),
    Converter("mg_own_block", ("value.number",), ("value.number",), _own_blocks),
    Added("mg_egress", ("value.runs", "value.rate", "value.binding")),
    Added("mg_egress_label", ("value.runs", "value.rate", "value.binding")),
    # A former version goes on with the limits of all connections.
    Added("mg_egress", ("value.timers",)),
    Added("mg_egress_label", ("value.timers",)),
    Added("mg_timers", rows_go=True),
    # Without its rows blocks of a size of their own have no owner: a former version drops what is
    # left of their connections, and opens none.
    Added("mg_block_size", rows_go=True),
    *(Added(name, rows_go=True) for name in (*_RUNS, *_BINDINGS, *_LAYER2)),
    Scratch("mg_declared"),  # the agent's rows; without them answers in datagrams are translated
    Scratch("mg_leak"),
    # Made by the agent, filled by the datapath: without a row a gateway counts as one that lives.
    Scratch("mg_gw_live"),
    # Without its rows packets go by the gateways.
    *(Scratch(name) for name in ("mg_direct", "mg_direct_echo")),
)
