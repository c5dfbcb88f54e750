"""Sessions to and from the entries of ``mg_bfd``; what the datapath says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bgp.bfd.packet import State
from bgp.bfd.rows import Session, SessionKey
from mesh.core.address import decode_address, encode_address
from mesh.core.feature import Entry

SESSION_MAP = "mg_bfd"
#: number -> what the datapath knows of the session. Nobody writes it but BPF.
STATE_MAP = "mg_bfd_session"
#: number -> whether next hops may be used.
PATH_MAP = "mg_bfd_state"
#: Values of ``enum bfd_path``.
UNKNOWN, UP, DOWN = 0, 1, 2

_MULTIHOP, _ENDING, _ASKS = 1, 2, 4
_AUTHENTICATION = 20


@dataclass(frozen=True, slots=True)
class BFDSeen:
    """A session as the datapath sees it; ``since_ns`` is of CLOCK_MONOTONIC, 0: never touched.

    ``refusal`` is a value of ``enum bfd_refusal``: of the last of ``refused`` packets.
    """

    mine: int
    state: State
    their_state: State
    diagnostic: int
    their_diagnostic: int
    since_ns: int
    detection_us: int
    downs: int
    refused: int
    refusal: int


def encode_session(key: SessionKey, row: Session) -> Entry:
    """Entry of ``mg_bfd``."""
    flags = _MULTIHOP * row.multihop | _ENDING * row.ending | _ASKS * row.asks
    section = row.authentication.ljust(_AUTHENTICATION, b"\0")
    return (
        {"peer": encode_address(key.peer), "local": encode_address(key.local)},
        {
            "number": row.number,
            "discriminator": row.discriminator,
            "interval": row.interval_us,
            "port": row.port,
            "multiplier": row.multiplier,
            "flags": flags,
            "authentication_length": len(row.authentication),
            "authentication": np.frombuffer(section, np.uint32).tolist(),
        },
    )


def decode_session(key: Any, value: Any) -> tuple[SessionKey, Session]:
    """Inverse of ``encode_session``."""
    flags = int(value["flags"])
    row = Session(
        number=int(value["number"]),
        discriminator=int(value["discriminator"]),
        interval_us=int(value["interval"]),
        port=int(value["port"]),
        multiplier=int(value["multiplier"]),
        multihop=bool(flags & _MULTIHOP),
        asks=bool(flags & _ASKS),
        ending=bool(flags & _ENDING),
        authentication=value["authentication"].tobytes()[: int(value["authentication_length"])],
    )
    return SessionKey(decode_address(key["peer"]), decode_address(key["local"])), row


def decode_seen(key: Any, value: Any) -> tuple[int, BFDSeen]:
    """An entry of ``mg_bfd_session``, by number."""
    number: Callable[[str], int] = lambda name: int(value[name])  # noqa: E731 - of this value
    return int(key), BFDSeen(
        mine=number("mine"),
        state=State(number("state")),
        their_state=State(number("their_state")),
        diagnostic=number("diagnostic"),
        their_diagnostic=number("their_diagnostic"),
        since_ns=number("since"),
        detection_us=number("detection") // 1000,
        downs=number("downs"),
        refused=number("refused"),
        refusal=number("refusal"),
    )


def encode_path(number: int, path: int) -> Entry:
    """Entry of ``mg_bfd_state``."""
    return number, path


def decode_path(key: Any, value: Any) -> tuple[int, int]:
    """Inverse of ``encode_path``."""
    return int(key), int(value)
