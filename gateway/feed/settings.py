"""Sections of the feed's configuration file: where it listens, and which firewalls fetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import msgspec

from gateway.feed.fetches import ALL, Firewall
from mesh.core.section import Section
from mesh.core.strict import Wrong

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?\Z")]
_Group = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)\Z")]


class FeedTLS(Section, frozen=True):
    """Certificates of the feed. Files that change count for new connections."""

    cert: Path
    """PEM file of the server's certificate, for the name or address in the URL, with its chain."""
    key: Path
    """PEM file of the certificate's private key."""
    client_ca: Path | None = msgspec.field(name="clientCA", default=None)
    """PEM file of the authority that signs certificates of firewalls; absent: none is asked for."""


class Credentials(Section, frozen=True):
    """How a firewall says which one it is; each way that is given is enough."""

    user: str = ""
    """Name for basic authentication, together with ``passwordFile``."""
    password_file: Path | None = None
    """File with the password, in its first line."""
    token_file: Path | None = None
    """File with a token, which comes as ``Authorization: Bearer``."""
    certificate: str = ""
    """Common name of the firewall's certificate, which ``tls.clientCA`` has signed."""

    def problems(self, path: str) -> Iterator[Wrong]:
        if bool(self.user) != (self.password_file is not None):
            yield Wrong(f"{path}.user", "user and passwordFile are needed together")
        if ":" in self.user:
            yield Wrong(f"{path}.user", "a name for basic authentication has no colon (RFC 7617 2)")
        if not (self.user or self.token_file or self.certificate):
            text = "expected user with passwordFile, tokenFile or certificate"
            yield Wrong(path, text)


class FirewallSettings(Section, frozen=True):
    """A firewall that fetches lists."""

    name: _Name
    """Its name in lists and findings."""
    groups: Annotated[tuple[_Group, ...], msgspec.Meta(min_length=1)]
    """The groups that it fetches; ``*`` for all."""
    credentials: Credentials
    """How it says which one it is."""
    settle_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    """Seconds from the fetch of a list until the firewall uses it for sure."""

    @property
    def row(self) -> Firewall:
        """What counts for addresses."""
        return Firewall(self.name, self.groups, self.settle_seconds)


def listen_problems(path: str, listen: str) -> Iterator[Wrong]:
    """Whether ``listen`` is ``address:port``."""
    host, port = split_listen(listen)
    try:
        good = 0 < int(port) < 1 << 16 and (ip_address(host).version == 6) == ("[" in listen)
    except ValueError:
        good = False
    if not good:
        yield Wrong(path, f"expected address:port or [address]:port, got {listen!r}")


def split_listen(listen: str) -> tuple[str, str]:
    """Address and port."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def firewall_problems(path: str, firewalls: Sequence[FirewallSettings]) -> Iterator[Wrong]:
    """What one firewall alone cannot say: two that nobody could tell apart."""
    seen: dict[tuple[str, str], str] = {}
    for number, one in enumerate(firewalls):
        place = f"{path}[{number}]"
        yield from one.credentials.problems(f"{place}.credentials")
        if ALL in one.groups and len(one.groups) > 1:
            yield Wrong(f"{place}.groups", f"{ALL} stands alone")
        own = one.credentials
        for field, value in (
            ("name", one.name),
            ("credentials.user", own.user),
            ("credentials.tokenFile", str(own.token_file or "")),
            ("credentials.certificate", own.certificate),
        ):
            other = seen.setdefault((field, value), one.name) if value else one.name
            if other != one.name or (field == "name" and _count(firewalls, one.name) > 1):
                yield Wrong(f"{place}.{field}", f"{value} is that of firewall {other}, too")


def _count(firewalls: Sequence[FirewallSettings], name: str) -> int:
    return sum(one.name == name for one in firewalls)
