"""Numbers of BFD in words, for people. Source: RFC 5880 4.1 and 6.8.6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bgp.bfd.packet import State

STATES: Final[Mapping[State, str]] = {
    State.ADMIN_DOWN: "admin down",
    State.DOWN: "down",
    State.INIT: "init",
    State.UP: "up",
}
#: Why a session has left its last state.
DIAGNOSTICS: Final[Mapping[int, str]] = {
    0: "",
    1: "nothing was heard for the detection time",
    2: "an echo has failed",
    3: "the router says that its session is down",
    4: "its forwarding plane was reset",
    5: "the path is down",
    6: "a concatenated path is down",
    7: "switched off",
    8: "a reverse concatenated path is down",
}
#: Values of ``enum bfd_refusal``.
REFUSALS: Final[Mapping[int, str]] = {
    1: "they are for one hop where spec.bfd.multihop is set, or the reverse",
    2: "they have crossed a router (TTL below 255)",
    3: "they are of another version of BFD",
    4: "their length is wrong",
    5: "they have a multiplier of 0",
    6: "they are for a multipoint session",
    7: "they have no discriminator",
    8: "they are for a session that we had before; the router is to begin anew",
    9: "they name no session of ours",
    10: "password: one side has none, or another one",
}
