"""The CA of an etcd that is made for a cluster, and what of it is made anew at a later look.

``found`` is pure but for keys: it gets what is there and returns what should be there, so it may
run at each install and upgrade. What is good stays as it is, because a process with a certificate
of the former CA could not speak to etcd. Names are those of the chart's Secrets and of the CA's
folder (``issued.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from clustermesh.certs import (
    Authority,
    KeyPair,
    diagnose,
    is_spent,
    names_of,
    validity_of,
)
from clustermesh.issued import ROOT

#: Keys of a Secret with the CA; etcd's own has the names that Kubernetes gives to a server's pair.
CA_KEYS = ("ca.crt", "ca.key", "root.crt", "root.key")
SERVER_KEYS = ("ca.crt", "tls.crt", "tls.key")


class FoundingError(ValueError):
    """What is there cannot be used, and must not be replaced; the text says why."""


def found(
    ca: Mapping[str, bytes],
    server: Mapping[str, bytes],
    addresses: Sequence[str],
    now: datetime | None = None,
) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """The Secrets of the CA and of etcd's server, which answers at these addresses.

    ``ca`` and ``server`` are what is there, empty for nothing. Raises FoundingError.
    """
    now = now or datetime.now(UTC)
    authority = authority_of(ca) if ca else Authority.create()
    whole = dict(ca) or {"ca.crt": authority.pair.cert, "ca.key": authority.pair.key}
    if not _is_good(whole, ROOT, authority, now):
        whole |= _named(authority.issue_user(ROOT), ROOT)
    served = [*addresses, "localhost", "127.0.0.1", "::1"]
    kept = {key: server[key] for key in SERVER_KEYS if key in server}
    if not _serves(kept, authority, served, now):
        pair = authority.issue_server("etcd-server", served)
        kept = {"ca.crt": authority.pair.cert, **_named(pair, "tls")}
    return whole, kept


def authority_of(ca: Mapping[str, bytes]) -> Authority:
    """The CA of a Secret or folder. Raises FoundingError."""
    missing = [name for name in CA_KEYS[:2] if name not in ca]
    if missing:
        raise FoundingError(f"{' and '.join(missing)} is missing")
    try:
        return Authority(KeyPair(ca["ca.crt"], ca["ca.key"]))
    except (ValueError, TypeError) as error:
        raise FoundingError(f"ca.crt or ca.key: {error}") from error


def root_problem(ca: Mapping[str, bytes]) -> str:
    """Why etcd would refuse this Secret's root; empty when nothing is wrong."""
    missing = [name for name in CA_KEYS if name not in ca]
    if missing:
        return f"{' and '.join(missing)} is missing"
    return diagnose(ca["ca.crt"], ca["root.crt"], ca["root.key"])


def _is_good(there: Mapping[str, bytes], name: str, authority: Authority, now: datetime) -> bool:
    cert, key = there.get(f"{name}.crt"), there.get(f"{name}.key")
    if cert is None or key is None or diagnose(authority.pair.cert, cert, key, now):
        return False
    return not is_spent(validity_of(cert), now)


def _serves(
    there: Mapping[str, bytes], authority: Authority, names: Sequence[str], now: datetime
) -> bool:
    """Whether etcd's own certificate is this CA's, for these names, and lives long enough."""
    if set(there) != set(SERVER_KEYS) or there["ca.crt"] != authority.pair.cert:
        return False
    try:
        same = set(names) <= set(names_of(there["tls.crt"]))
        return same and not is_spent(validity_of(there["tls.crt"]), now)
    except ValueError:
        return False


def _named(pair: KeyPair, name: str) -> dict[str, bytes]:
    return {f"{name}.crt": pair.cert, f"{name}.key": pair.key}
