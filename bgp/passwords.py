"""TCP MD5 keys of sessions, from files and a Secret; no session starts without its key.

Of an API server one Secret is read, by its name, in one namespace: whoever may read all Secrets of
a namespace has every key that stands there. A folder of manifests may hold several.
"""

from __future__ import annotations

import binascii
import os
import stat
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bgp.peer import Password
from mesh.core.strict import Wrong, convert
from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.objects.fields import irrelevant, used
from mesh.objects.schema import Kind, Loose, Meta, Parsed, Place
from mesh.objects.tables import ObjectNoun

#: Name of the Secret that is read of an API server, as a field selector has it.
ONLY = "metadata.name=meshgate-bgp"
#: Octets of the longest key (RFC 2385, Linux' TCP_MD5SIG_MAXKEYLEN).
LONGEST = 80
#: Seconds between two looks at the files.
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Secret:
    """One Secret; its data is never shown."""

    name: str
    data: tuple[tuple[str, str], ...] = field(repr=False)


SECRETS: ObjectNoun[str, Secret] = ObjectNoun("bgp secret")


class _Secret(Loose, frozen=True, kw_only=True):
    metadata: Meta
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None


def _secret(place: Place, document: object) -> Parsed:
    said = convert(document, _Secret)
    name = place.key.name
    found: dict[str, str] = {}
    for key, text in (said.data or {}).items():
        try:
            found[key] = b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Wrong(f"data.{key}", "expected text in base64") from None
    found |= said.string_data or {}
    return Parsed(SECRETS.name, name, Secret(name, tuple(sorted(found.items()))))


KINDS = (
    Kind(
        "v1",
        "Secret",
        SECRETS,
        _secret,
        namespaced=True,
        fields=(
            used("data", "keys of BGP sessions, which BGPPeers name"),
            used("stringData", "likewise, in a manifest"),
            irrelevant("metadata.labels", "Secrets are found by their name"),
        ),
    ),
)


class Passwords:
    """``table`` has the key of each place that BGPPeers name and that has one."""

    def __init__(
        self, secrets: Table[str, Secret], wanted: Callable[[], Iterable[Password]]
    ) -> None:
        self.table: Table[Password, str] = Table("BGP password")
        self._secrets, self._wanted = secrets, wanted

    def look(self) -> None:
        """Read what is wanted now."""
        found = {place: key for place in set(self._wanted()) if (key := self._key(place))}
        self.table.write(found, complete=self._secrets.synced)

    async def follow(self) -> None:
        """Look at the files, for ever."""
        while True:
            self.look()
            await tick(LOOK_S)

    def _key(self, place: Password) -> str:
        if place.file:
            return of_file(place.file)
        secret = self._secrets.rows.get(place.secret)
        return _usable(dict(secret.data).get(place.key, "")) if secret else ""


def of_file(path: str) -> str:
    """The first line of a file; empty: there is none that can be a key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        text = os.read(descriptor, LONGEST + 2).decode()
    except (OSError, UnicodeDecodeError):
        return ""
    finally:
        os.close(descriptor)
    return _usable(text)


def _usable(text: str) -> str:
    key = text.rstrip("\r\n")
    return key if 0 < len(key.encode()) <= LONGEST and "\n" not in key else ""


def known(
    found: Mapping[Password, str], last: Mapping[Any, Any], peers: Iterable[Any]
) -> dict[Password, str]:
    """Keys, and of a session that is there the one that it has, where its place has none now."""
    keys = dict(found)
    for peer in peers:
        session = last.get(peer.address)
        if peer.password and peer.password not in keys and session and session.password:
            keys[peer.password] = session.password
    return keys
