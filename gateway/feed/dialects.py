"""The bodies of feeds, byte for byte, in each vendor's form. Pure.

Formats, limits and golden bodies: ``reference/egress.md`` 14. Addresses come sorted; each is an
entry of its own, so no prefix ever adds one. ``generated`` is written once for each epoch, so the
bytes of an epoch never change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import NAMESPACE_URL, uuid5

from mesh.core.model import IP

TEXT, JSON = "text/plain; charset=utf-8", "application/json"


@dataclass(frozen=True, slots=True)
class Body:
    """What a body is made of; ``addresses`` are sorted and not empty."""

    cluster: str
    group: str
    epoch: int
    generated: str
    addresses: tuple[IP, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A vendor's form. ``entries`` and ``size`` (bytes) are the smallest limits of its products."""

    vendor: str
    content: str
    write: Callable[[Body], str]
    entries: int | None = None
    size: int | None = None


def _plain(body: Body) -> str:
    return _lines(map(str, body.addresses))


def _palo_alto(body: Body) -> str:
    """The comment stands behind a space; the dialect has no lines of comment."""
    return _lines(f"{one} {body.group} epoch {body.epoch}" for one in body.addresses)


def _commented(body: Body) -> str:
    head = f"# group={body.group} epoch={body.epoch} generated={body.generated}"
    return _lines([head, *map(str, body.addresses)])


def _network_feed(body: Body) -> str:
    objects = [{"ip": str(one)} for one in body.addresses]
    return _json({"epoch": body.epoch, "objects": objects})


def _generic_data_center(body: Body) -> str:
    """Check Point knows an object by its ``id``, so it is the same in every epoch."""
    only = {
        "name": body.group,
        "id": str(uuid5(NAMESPACE_URL, f"meshgate:{body.cluster}/{body.group}")),
        "description": f"epoch {body.epoch}",
        "ranges": [str(one) for one in body.addresses],
    }
    return _json({"version": "1.0", "description": f"meshgate {body.group}", "objects": [only]})


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _json(tree: Mapping[str, object]) -> str:
    return json.dumps(tree, separators=(",", ":")) + "\n"


#: By the end of the URL.
DIALECTS: Mapping[str, Dialect] = {
    "txt": Dialect("any", TEXT, _plain),
    "pan": Dialect("Palo Alto", TEXT, _palo_alto, entries=50_000),
    "forti": Dialect("FortiGate", TEXT, _commented, entries=128 << 10, size=10 << 20),
    "cisco": Dialect("Cisco FMC", TEXT, _commented, size=500 << 20),
    "cp.json": Dialect("Check Point", JSON, _network_feed),
    "cpgdc.json": Dialect("Check Point", JSON, _generic_data_center),
}
#: Part of a vendor's limit from which on a finding warns.
WARN = 0.8


@lru_cache(maxsize=256)
def written(dialect: str, body: Body) -> bytes:
    """The bytes of a feed."""
    return DIALECTS[dialect].write(body).encode()


@lru_cache(maxsize=256)
def etag(dialect: str, body: Body) -> str:
    """The strong ETag of these bytes, with the epoch in clear; ``generated`` does not count."""
    timeless = DIALECTS[dialect].write(
        Body(body.cluster, body.group, body.epoch, "", body.addresses)
    )
    return f'"{body.epoch}-{hashlib.sha256(timeless.encode()).hexdigest()[:32]}"'


def epoch_of(tag: str) -> int | None:
    """The epoch in an ETag of ours, weak or strong; None in any other."""
    number, dash, _ = tag.removeprefix("W/").strip('"').partition("-")
    return int(number) if dash and number.isascii() and number.isdecimal() else None


#: What stands behind a dialect's name in the URL, and what it makes of the bytes.
DIGESTS: Mapping[str, Callable[[bytes], str]] = {
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


def near_limits(body: Body) -> Sequence[str]:
    """A sentence for each vendor whose limit this list comes near: 80 % of it."""
    found = []
    for name, one in DIALECTS.items():
        count = len(body.addresses)
        if one.entries and count >= WARN * one.entries:
            found.append(f"{name}: {count} of {one.entries} entries that {one.vendor} takes")
        elif one.size and (length := _length(name, body)) >= WARN * one.size:
            found.append(f"{name}: {length} of {one.size} bytes that {one.vendor} takes")
    return found


#: Bytes of the longest line of an address; shorter lists are not written to be measured.
_LONGEST_LINE = 64


def _length(dialect: str, body: Body) -> int:
    limit = DIALECTS[dialect].size or 0
    if len(body.addresses) * _LONGEST_LINE < WARN * limit:
        return 0
    return len(written(dialect, body))
