"""Claims as keys and values of etcd, as rows, and as a file: pure, but for the file.

``meshgate/v1/<cluster>/<noun>/<pool>/number/<number>`` = {"owner": …, "released": 0} and
``…/owner/<owner>`` = {"number": …}. ``released`` is the Unix time from which the number rests.
``epoch`` stands in a value only when the store's own revision would not be greater than every
epoch before it: after a wiped store. Which nouns are claims is said by the features that have
them: the others' keys are none of ours. Called by the allocator, and by all who read claims.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from clustermesh.store.follow import Entry
from mesh.core import journal
from mesh.core.model import Claim, ClaimKey

#: Digits of a number: the largest pools have 2^62 of them.
_DIGITS = 19
#: Records of a journal.
Stored = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


@dataclass(frozen=True, slots=True)
class Record:
    """One number's key; ``released`` 0: held by ``owner``. ``modified`` 0: not in the store."""

    key: ClaimKey
    owner: str
    epoch: int
    released: int = 0
    modified: int = 0

    @property
    def claim(self) -> Claim:
        """The row that everyone else sees."""
        return Claim(self.key.noun, self.key.pool, self.key.number, self.owner, self.epoch)


class NumberValue(msgspec.Struct, frozen=True):
    """Value of a number's key."""

    owner: str
    released: Stored = 0
    epoch: Stored | msgspec.UnsetType = msgspec.UNSET


class OwnerValue(msgspec.Struct, frozen=True):
    """Value of an owner's key."""

    number: Stored


@dataclass(frozen=True, slots=True)
class ClaimRows:
    """What a batch says about claims: held ones, numbers no longer held, unreadable keys.

    A resting number is no longer held; nobody else has it before its next claim.
    """

    held: Mapping[ClaimKey, Claim]
    resting: Mapping[ClaimKey, Claim]
    gone: Collection[ClaimKey]
    unreadable: Mapping[str, str]


def number_key(cluster: str, key: ClaimKey) -> str:
    """The key that says who owns the number."""
    return f"meshgate/v1/{cluster}/{key.noun}/{key.pool}/number/{key.number}"


def numbers_prefix(cluster: str, noun: str, pool: str) -> str:
    """The prefix of a pool's numbers, without the owners: the part that a node watches."""
    return f"meshgate/v1/{cluster}/{noun}/{pool}/number/"


def owner_key(cluster: str, noun: str, pool: str, owner: str) -> str:
    """The key that says which number the owner has."""
    return f"meshgate/v1/{cluster}/{noun}/{pool}/owner/{owner}"


def claim_key(cluster: str, nouns: Collection[str], key: str) -> ClaimKey | None:
    """Which claim of these nouns a number's key is about; None for any other key of the subtree."""
    noun, _, rest = key.removeprefix(f"meshgate/v1/{cluster}/").partition("/")
    pool, _, number = rest.partition("/number/")
    is_number = number.isascii() and number.isdecimal() and len(number) <= _DIGITS
    if noun not in nouns or "/" in pool or not is_number:
        return None
    return ClaimKey(sys.intern(noun), sys.intern(pool), int(number))


def record_of(cluster: str, nouns: Collection[str], entry: Entry) -> Record | None:
    """One key of the store; None when it is no number's key. Raises ValueError naming the key."""
    key = claim_key(cluster, nouns, entry.key)
    if key is None:
        return None
    try:
        value = msgspec.json.decode(entry.value, type=NumberValue)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{entry.key}: {error}") from error
    epoch = entry.modified if value.epoch is msgspec.UNSET else value.epoch
    owner = sys.intern(value.owner)  # a label text is in the pods' entries, too
    return Record(key, owner, epoch, value.released, entry.modified)


def rows(
    cluster: str,
    nouns: Collection[str],
    puts: Iterable[Entry],
    deletes: Iterable[str] = (),
) -> ClaimRows:
    """Claims of these nouns in a batch of ``Follow``."""
    held: dict[ClaimKey, Claim] = {}
    resting: dict[ClaimKey, Claim] = {}
    unreadable: dict[str, str] = {}
    gone = {key for text in deletes if (key := claim_key(cluster, nouns, text))}
    for entry in puts:
        try:
            record = record_of(cluster, nouns, entry)
        except ValueError as error:
            unreadable[entry.key] = str(error)
            continue
        if record and record.released:
            gone.add(record.key)
            resting[record.key] = record.claim
        elif record:
            held[record.key] = record.claim
    return ClaimRows(held, resting, gone, unreadable)


def encode_number(owner: str, *, released: int = 0, epoch: int = 0) -> bytes:
    """Value of a number's key; ``epoch`` 0: the key's own revision counts."""
    return msgspec.json.encode(NumberValue(owner, released, epoch or msgspec.UNSET))


def encode_owner(number: int) -> bytes:
    """Value of an owner's key."""
    return msgspec.json.encode(OwnerValue(number))


def decode_owner(value: bytes) -> int:
    """The number in an owner's value. Raises ValueError."""
    try:
        return msgspec.json.decode(value, type=OwnerValue).number
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def snapshot_value(record: Record) -> bytes:
    """A record's value in a snapshot; the revision is the store's, so it stays out."""
    return msgspec.json.encode(NumberValue(record.owner, record.released, record.epoch))


def snapshot_key(key: ClaimKey) -> str:
    """The key of a record in a snapshot."""
    return f"{key.noun}/{key.pool}/{key.number}"


def former(path: Path) -> Path:
    """Where earlier versions wrote the snapshot, in JSON."""
    return path.with_suffix(".json")


def load(path: Path) -> list[Record]:
    """A snapshot's records; without one those of its ``former`` file.

    None when neither is there. Raises ValueError when the file is unreadable.
    """
    place = path if path.exists() else former(path)
    try:
        if journal.is_journal(place):
            return [_snapshot_record(*row) for row in journal.read(place).items()]
        return msgspec.json.decode(place.read_bytes(), type=list[Record])
    except FileNotFoundError:
        return []
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def _snapshot_record(key: str, value: bytes) -> Record:
    noun, pool, number = key.split("/")
    row = msgspec.json.decode(value, type=NumberValue)
    epoch = 0 if row.epoch is msgspec.UNSET else row.epoch
    return Record(ClaimKey(noun, pool, int(number)), row.owner, epoch, row.released)
