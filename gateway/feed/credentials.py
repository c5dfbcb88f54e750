"""Which firewall a request comes from, by what it presents. Pure, but for ``FeedSecrets``."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.feed.settings import FirewallSettings
from mesh.core.files import in_words


@dataclass(frozen=True, slots=True)
class FeedSecret:
    """What a firewall presents; an empty field is presented by nobody."""

    basic: bytes = b""
    token: bytes = b""
    certificate: str = ""


def presented_by(
    secrets: Mapping[str, FeedSecret], authorization: str, certificate: str
) -> str | None:
    """The firewall that a request comes from; None: of no one that is registered.

    All secrets are compared, each in a time that its content does not change. A request with wrong
    credentials is nobody's, also when it has a good certificate.
    """
    scheme, _, value = authorization.partition(" ")
    basic = _decoded(value) if scheme.lower() == "basic" else b""
    token = value.strip().encode() if scheme.lower() == "bearer" else b""
    found = [
        name
        for name, secret in secrets.items()
        if _same(secret.basic, basic) | _same(secret.token, token)
    ]
    if authorization:
        return found[0] if found else None
    named = [
        name for name, one in secrets.items() if certificate and one.certificate == certificate
    ]
    return named[0] if named else None


def _same(wanted: bytes, got: bytes) -> bool:
    return hmac.compare_digest(wanted, got) and bool(wanted)


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


class FeedSecrets:
    """The secrets of all firewalls; files that have changed are read again.

    ``problems`` has for each field that cannot be read the reason.
    """

    def __init__(self, firewalls: Sequence[FirewallSettings]) -> None:
        self.problems: dict[str, str] = {}
        self._firewalls = firewalls
        self._files: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    def read(self) -> dict[str, FeedSecret]:
        """By the firewall's name. A firewall whose file cannot be read presents nothing by it."""
        self.problems = {}
        return {one.name: self._secret(at, one) for at, one in enumerate(self._firewalls)}

    def _secret(self, at: int, one: FirewallSettings) -> FeedSecret:
        own, path = one.credentials, f"firewalls[{at}].credentials"
        password = self._first_line(f"{path}.passwordFile", own.password_file)
        token = self._first_line(f"{path}.tokenFile", own.token_file)
        basic = own.user.encode() + b":" + password if password else b""
        return FeedSecret(basic, token, own.certificate)

    def _first_line(self, field: str, file: Path | None) -> bytes:
        if file is None:
            return b""
        try:
            found = file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._files.get(file, ((), b""))[0] != stamp:
                self._files[file] = (stamp, _line(file.read_bytes().splitlines()))
        except OSError as error:
            self.problems[field] = in_words(error)
            return b""
        secret = self._files[file][1]
        if not secret:
            self.problems[field] = "the first line is empty"
        return secret


def _line(lines: Iterable[bytes]) -> bytes:
    return next(iter(lines), b"").strip()
