"""What routers have sent, of all sessions of a node (RFC 4271 3.2, Adj-RIBs-In).

Rules:
- A route with our own AS in its path, or brought into our AS by ourselves, is none (RFC 4271 9,
  RFC 4456 8); where we had sent its prefix to that router it is an echo.
- Beyond the maximum of a session and family no prefix is taken. The session stays.
- Rows of a session that is down are stale for the router's restart time (RFC 4724 4.2). A session
  that comes up, or a refresh, leaves all rows *unconfirmed*: those that have not come again at its
  end go (RFC 4724, RFC 7313), and at the latest after ``CONFIRM_S``.

Whatever concerns many rows is a generator: the caller rests between its steps. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import islice

from bgp.desired import Peering
from bgp.received import family_of, key_of, rows
from bgp.route import Family, PeerKey
from bgp.wire.opening import Opening
from bgp.wire.rows import Update
from mesh.core.model import IP
from mesh.core.received import Received, ReceivedKey
from mesh.core.table import Table

#: Longest wait until all rows have come again.
CONFIRM_S = 60.0
#: Seconds after End-of-RIB in which rows may still come again: some routers say it before the last
#: of their routes (FRRouting/frr#20165).
EARLY_S = 3.0
#: Prefixes of a session and family where its BGPPeer says nothing.
DEFAULT_MAXIMUM = 100_000
#: Share of the maximum below which what was not taken is asked for again.
_ROOM = 0.75
#: Rows that are changed between two looks at the clock.
_STEP = 200
#: Refused prefixes of a router whose reason is remembered, the newest ones.
_REMEMBERED = 1000
#: Malformed UPDATEs are no finding any more after this time without another.
FAULT_S = 600.0

#: One family of a session.
Part = tuple[IP, Family]


@dataclass(slots=True)
class Faults:
    """What was wrong with UPDATEs of a router: how many, and the last one."""

    count: int = 0
    text: str = ""
    prefixes: tuple[str, ...] = ()
    at: float = 0.0


@dataclass(slots=True)
class _Unconfirmed:
    keys: set[ReceivedKey]
    until: float
    asked: bool = False  # by us, and nothing says yet that the router answers


@dataclass(slots=True)
class _Peer:
    """What is known of a router beside its rows."""

    looped: int = 0
    echoes: set[ReceivedKey] = field(default_factory=set)
    refused: dict[ReceivedKey, str] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    gone_at: float | None = None  # the session is down: when its rows go
    by_us: bool = False  # our ExaBGP has ended, and the session with it
    most: int = DEFAULT_MAXIMUM


class RibIn:
    """``table`` has the rows; ``sent`` are the keys of what was sent, to tell echoes."""

    def __init__(self, sent: Collection[ReceivedKey] = ()) -> None:
        self.table: Table[ReceivedKey, Received] = Table("received route")
        #: Prefixes that were not taken since the family was last begun anew.
        self.surplus: dict[Part, int] = {}
        #: Parts that are to be asked for again, because not everything of them was taken in.
        self.wanting: set[Part] = set()
        #: Our BGP identifier, where a session has none of its own.
        self.router_id: IPv4Address | None = None
        self._sent = sent
        self._keys: dict[Part, set[ReceivedKey]] = {}
        self._unconfirmed: dict[Part, _Unconfirmed] = {}
        self._peers: dict[IP, _Peer] = {}

    # What there is

    def count(self, peer: IP, family: Family) -> int:
        """Rows of a session."""
        return len(self._keys.get((peer, family), ()))

    def of(self, peer: IP) -> _Peer:
        """What is known of a router."""
        return self._peers.setdefault(peer, _Peer())

    @property
    def peers(self) -> set[IP]:
        """Routers that have rows."""
        return {peer for (peer, _), keys in self._keys.items() if keys}

    @property
    def known(self) -> set[IP]:
        """Routers of which anything is known."""
        return set(self._peers)

    def is_confirmed(self, peer: PeerKey) -> bool:
        """Whether nothing of a session waits to come again."""
        return not any(part[0] == peer for part in self._unconfirmed)

    def faults(self, now: float) -> dict[IP, Faults]:
        """Routers that have lately sent what cannot be read."""
        return {
            peer: one.faults
            for peer, one in self._peers.items()
            if one.faults.count and now - one.faults.at < FAULT_S
        }

    # What happens

    def load(self, found: Iterable[tuple[ReceivedKey, Received]]) -> Iterator[None]:
        """Rows of the last speaker; none of them is confirmed before its session is asked."""
        left = iter(found)
        while some := dict(islice(left, _STEP)):
            for key in some:
                self._keys.setdefault((key.peer, family_of(key)), set()).add(key)
            self.table.upsert(some)
            yield

    def hear(self, peer: IP, session: Peering, update: Update, now: float) -> None:
        """Take in an UPDATE."""
        gone = [key_of(peer, one) for one in update.withdrawn]
        come = dict(rows(peer, update))
        why = update.treat_as_withdraw or update.reset
        if why or update.attributes.discarded:
            self._note_fault(peer, update, now)
        if why:
            self._refuse(peer, gone, f"its UPDATE is malformed: {why}")
        if update.reset:
            self.wanting |= {part for part in self._keys if part[0] == peer}
        own = session.router_id or self.router_id
        looped = _looped(session, own, update) if come else ""
        mine, come = (come, {}) if looped else ({}, come)
        self._drop([key for key in (*gone, *mine) if key not in come])
        self._loop(peer, mine, looped)
        self._take(peer, session, come)

    def down(
        self,
        peer: IP,
        keep_s: float,
        families: Collection[Family],
        now: float,
        *,
        by_us: bool = False,
    ) -> Iterator[None]:
        """The session has ended; rows of the families are kept for so long, as stale ones."""
        one = self.of(peer)
        one.by_us = by_us
        one.echoes.clear()
        if keep_s <= 0:
            yield from self.forget(peer)
            return
        one.gone_at = now + keep_s
        for part in self._parts(peer):
            if part[1] in families:
                self.wanting.discard(part)
                self._unconfirmed.pop(part, None)
                yield from self._age(part)
            else:
                yield from self._drop_part(part)

    def up(
        self, peer: IP, families: Collection[Family], opening: Opening | None, now: float
    ) -> Iterator[None]:
        """The session stands: its rows have to come again."""
        self.of(peer).gone_at = None
        self.of(peer).faults = Faults()
        lost = set[Family]()
        # RFC 4724 4.2: it has forwarded nothing. Where we have restarted, the flag says only that
        # the router started lately: FRR sets it in each OPEN for two minutes.
        if opening is not None and opening.restarted and not self.of(peer).by_us:
            lost = set(Family) - set(opening.kept)
        for part in self._parts(peer):
            if part[1] not in families or part[1] in lost:
                yield from self._drop_part(part)
        for family in families:
            self.begin((peer, family), now)

    def begin(self, part: Part, now: float, *, asked: bool = False) -> None:
        """All rows of the part will come again, or have gone; ``asked``: we ask for them."""
        self.surplus.pop(part, None)
        self.wanting.discard(part)
        keys = set(self._keys.get(part, ()))
        self._unconfirmed[part] = _Unconfirmed(keys, now + CONFIRM_S, asked)

    def unbegin(self, part: Part) -> None:
        """Nothing will come again, because nobody has asked for it: that is still to be done."""
        if self._unconfirmed.pop(part, None) is not None:
            self.wanting.add(part)

    def end_of_rib(self, part: Part, now: float) -> None:
        """Everything of a new session has come; it says nothing about what we asked for since.

        The router may still send what it began before the question, of which we have heard a part.
        Rows that have not come again go ``EARLY_S`` later.
        """
        waiting = self._unconfirmed.get(part)
        if waiting is None or waiting.asked:
            return
        if waiting.keys:
            waiting.until = min(waiting.until, now + EARLY_S)
        else:
            del self._unconfirmed[part]

    def end(self, part: Part) -> Iterator[None]:
        """All rows of the part have come."""
        waiting = self._unconfirmed.pop(part, None)
        if waiting is not None:
            yield from self._drop_slowly(waiting.keys)

    def forget(self, peer: IP) -> Iterator[None]:
        """The rows of a session go."""
        self.of(peer).gone_at = None
        self._peers[peer].refused.clear()
        for part in self._parts(peer):
            yield from self._drop_part(part)

    def expire(self, now: float) -> Iterator[None]:
        """What is overdue goes."""
        for part, waiting in list(self._unconfirmed.items()):
            if waiting.until <= now:
                yield from self.end(part)
        for peer, one in list(self._peers.items()):
            if one.gone_at is not None and one.gone_at <= now:
                yield from self.forget(peer)

    @property
    def next_at(self) -> float | None:
        """When something is next overdue."""
        times = [waiting.until for waiting in self._unconfirmed.values()]
        times += [one.gone_at for one in self._peers.values() if one.gone_at is not None]
        return min(times, default=None)

    def adapt(self, peer: IP, session: Peering) -> Iterator[None]:
        """The session's maximum may be another one."""
        most = self.of(peer).most = session.max_prefixes or DEFAULT_MAXIMUM
        for part in self._parts(peer):
            have = self._keys.get(part, set())
            if len(have) > most:
                beyond = sorted(have, key=lambda key: (key.prefix, key.rd))[most:]
                self.surplus[part] = self.surplus.get(part, 0) + len(beyond)
                yield from self._drop_slowly(beyond)
        self._ask_again(peer)

    # Parts of these

    def _take(self, peer: IP, session: Peering, come: dict[ReceivedKey, Received]) -> None:
        one = self.of(peer)
        most = one.most = session.max_prefixes or DEFAULT_MAXIMUM
        taken: dict[ReceivedKey, Received] = {}
        for key, row in come.items():
            part = peer, family_of(key)
            have = self._keys.setdefault(part, set())
            if key not in have:
                if len(have) >= most:
                    self.surplus[part] = self.surplus.get(part, 0) + 1
                    self._refuse(peer, [key], f"the maximum of {most} prefixes is reached")
                    continue
                have.add(key)
            taken[key] = row
            if (waiting := self._unconfirmed.get(part)) is not None:
                waiting.keys.discard(key)
            one.refused.pop(key, None)
            one.echoes.discard(key)
        self.table.upsert(taken)

    def _drop(self, keys: Iterable[ReceivedKey]) -> None:
        gone = []
        for key in keys:
            part = key.peer, family_of(key)
            have = self._keys.get(part)
            if have is not None and key in have:
                have.discard(key)
                gone.append(key)
                if (waiting := self._unconfirmed.get(part)) is not None:
                    waiting.keys.discard(key)
                if part in self.surplus:
                    self._ask_again(key.peer)
            elif (one := self._peers.get(key.peer)) is not None:
                one.echoes.discard(key)
        self.table.delete(gone)

    def _drop_part(self, part: Part) -> Iterator[None]:
        self.surplus.pop(part, None)
        self.wanting.discard(part)
        self._unconfirmed.pop(part, None)
        yield from self._drop_slowly(list(self._keys.get(part, ())))
        self._keys.pop(part, None)

    def _drop_slowly(self, keys: Iterable[ReceivedKey]) -> Iterator[None]:
        left = iter(keys)
        while some := list(islice(left, _STEP)):
            self._drop(some)
            yield

    def _age(self, part: Part) -> Iterator[None]:
        """Mark the rows of a part as stale; equal rows stay one."""
        aged: dict[int, Received] = {}
        left = iter(list(self._keys.get(part, ())))
        while some := list(islice(left, _STEP)):
            old = {key: self.table.rows[key] for key in some if key in self.table.rows}
            for row in old.values():
                if id(row) not in aged:
                    aged[id(row)] = replace(row, stale=True)
            self.table.upsert({key: aged[id(row)] for key, row in old.items()})
            yield

    def _parts(self, peer: IP) -> list[Part]:
        known = self._keys.keys() | self._unconfirmed.keys() | self.surplus.keys()
        return [part for part in known if part[0] == peer]

    def _loop(self, peer: IP, keys: Iterable[ReceivedKey], why: str) -> None:
        one = self.of(peer)
        strange: list[ReceivedKey] = []
        for key in keys:
            one.looped += 1
            (one.echoes.add if key in self._sent else strange.append)(key)
        self._refuse(peer, strange, why)

    def _refuse(self, peer: IP, keys: Iterable[ReceivedKey], why: str) -> None:
        refused = self.of(peer).refused
        for key in keys:
            refused.pop(key, None)
            refused[key] = why
        for key in list(islice(refused, max(0, len(refused) - _REMEMBERED))):
            del refused[key]

    def _note_fault(self, peer: IP, update: Update, now: float) -> None:
        faults = self.of(peer).faults
        faults.count += 1
        faults.text = update.reset or update.treat_as_withdraw or update.attributes.discarded[0]
        faults.prefixes = tuple(str(one.prefix) for one in update.withdrawn[:3])
        faults.at = now

    def _ask_again(self, peer: IP) -> None:
        """There may be room again for what was not taken."""
        enough = _ROOM * self.of(peer).most
        for part in self.surplus:
            if part[0] == peer and len(self._keys.get(part, ())) < enough:
                self.wanting.add(part)


def _looped(session: Peering, own: IPv4Address | None, update: Update) -> str:
    """Why a route is one of our own; empty: it is not."""
    said = update.attributes
    if session.local_asn in said.as_path:
        return f"our own AS {session.local_asn} is in its path"
    if own is not None and said.originator == own:
        return f"it was brought into the AS by this node ({own})"
    return ""
