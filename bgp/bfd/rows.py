"""Which BFD sessions a node has: pure functions.

A session keeps its number and discriminator as long as its row stands, whatever else changes: the
router would see another one as a new session, and take this one down. A session that is no longer
wanted is *ending* first: the router hears AdminDown, and so does not take the end for a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2s
from itertools import count

from bgp.bfd.packet import SOURCE_PORTS, simple_password
from mesh.core.address import packed
from mesh.core.model import IP

#: Numbers of sessions; 0 is none. ``BFD_SESSIONS`` of bpf/include/bfd.h is one more than the last.
NUMBERS = range(1, 256)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Both ends of a session."""

    peer: IP
    local: IP


@dataclass(frozen=True, slots=True)
class BFDWanted:
    """What a BGPPeer wants of a session."""

    interval_us: int
    multiplier: int
    multihop: bool = False
    asks: bool = False  # the router is passive, so we begin
    password: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the datapath has it: an entry of ``mg_bfd``."""

    number: int
    discriminator: int
    interval_us: int
    port: int
    multiplier: int
    multihop: bool = False
    asks: bool = False
    ending: bool = False
    authentication: bytes = b""


def sessions(
    wanted: Mapping[SessionKey, BFDWanted],
    standing: Mapping[SessionKey, Session],
    draw: Callable[[SessionKey, int], int],
) -> tuple[dict[SessionKey, Session], list[SessionKey]]:
    """Every session that is wanted or ending, and those for which no number is free.

    ``standing`` are the sessions of before; ``draw`` gives the discriminator of a session, another
    one for each attempt.
    """
    rows = {key: replace(row, ending=True) for key, row in standing.items() if key not in wanted}
    left: list[SessionKey] = []
    used = {row.number for row in standing.values()}
    discriminators = {row.discriminator for row in standing.values()}
    for key in sorted(wanted, key=str):
        former = standing.get(key)
        number = former.number if former else _free(NUMBERS, used)
        if number is None:
            left.append(key)
            continue
        mine = former.discriminator if former else _unused(key, draw, discriminators)
        used.add(number)
        discriminators.add(mine)
        rows[key] = _session(wanted[key], number, mine)
    return rows, left


def _session(wanted: BFDWanted, number: int, discriminator: int) -> Session:
    return Session(
        number=number,
        discriminator=discriminator,
        interval_us=wanted.interval_us,
        port=SOURCE_PORTS[number],
        multiplier=wanted.multiplier,
        multihop=wanted.multihop,
        asks=wanted.asks,
        authentication=simple_password(wanted.password),
    )


def _free(numbers: Iterable[int], used: Collection[int]) -> int | None:
    return next((number for number in numbers if number not in used), None)


def _unused(key: SessionKey, draw: Callable[[SessionKey, int], int], used: Collection[int]) -> int:
    return next(n for n in (draw(key, at) for at in count()) if n and n not in used)


def drawn(secret: bytes, key: SessionKey, attempt: int) -> int:
    """A discriminator that is the same for a session that comes back, and strange to outsiders.

    FRR goes on naming the discriminator of a session that has ended (RFC 5880 6.8.1 lets it forget
    it after a detection time); with another one, its packets would be refused for ever.
    """
    ends = packed(key.peer) + packed(key.local) + attempt.to_bytes(4, "big")
    return int.from_bytes(blake2s(ends, key=secret[:32], digest_size=4).digest(), "big")
