"""The CA of a cluster's own etcd: made once, and what may be made anew later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from clustermesh.certs import (
    Authority,
    KeyPair,
    diagnose,
    is_spent,
    names_of,
    new_key,
    validity_of,
)
from clustermesh.founding import (
    CA_KEYS,
    SERVER_KEYS,
    FoundingError,
    found,
    root_problem,
)


def test_a_ca_is_made_with_root_and_a_server_of_these_addresses() -> None:
    ca, server = found({}, {}, ["192.0.2.11", "fd00::11"])
    assert tuple(sorted(ca)) == tuple(sorted(CA_KEYS))
    assert root_problem(ca) == ""
    assert {"192.0.2.11", "fd00::11", "127.0.0.1"} <= set(names_of(server["tls.crt"]))
    assert server["ca.crt"] == ca["ca.crt"]
    assert set(server) == set(SERVER_KEYS)


def test_what_is_good_stays() -> None:
    ca, server = found({}, {}, ["192.0.2.11"])
    assert found(ca, server, ["192.0.2.11"]) == (ca, server)


def test_another_address_is_another_servers_certificate_of_the_same_ca() -> None:
    ca, server = found({}, {}, ["192.0.2.11"])
    same, moved = found(ca, server, ["192.0.2.12"])
    assert same == ca
    assert moved["tls.crt"] != server["tls.crt"]
    assert "192.0.2.12" in names_of(moved["tls.crt"])


def test_half_spent_certificates_are_made_anew_and_the_ca_is_not() -> None:
    ca, server = found({}, {}, ["192.0.2.11"])
    later = datetime.now(UTC) + timedelta(days=200)
    renewed, other = found(ca, server, ["192.0.2.11"], later)
    assert (renewed["ca.crt"], renewed["ca.key"]) == (ca["ca.crt"], ca["ca.key"])
    assert renewed["root.crt"] != ca["root.crt"]
    assert other["tls.crt"] != server["tls.crt"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ca.key": None}, r"ca\.key is missing"),
        ({"ca.key": b"x"}, r"ca\.crt or ca\.key"),
    ],
)
def test_a_ca_that_cannot_be_used_stays(change: dict[str, bytes | None], why: str) -> None:
    ca, server = found({}, {}, ["192.0.2.11"])
    broken = {key: value for key, value in {**ca, **change}.items() if value is not None}
    with pytest.raises(FoundingError, match=why):
        found(broken, server, ["192.0.2.11"])


def test_a_root_of_another_ca_is_named() -> None:
    ca, _ = found({}, {}, [])
    other, _ = found({}, {}, [])
    mixed = {**ca, "root.crt": other["root.crt"], "root.key": other["root.key"]}
    assert "not signed by the configured CA" in root_problem(mixed)
    assert root_problem({}) == "ca.crt and ca.key and root.crt and root.key is missing"


def test_a_process_keeps_its_private_key() -> None:
    authority = Authority.create()
    private, public = new_key()
    cert = authority.certify_user("east:node:n1", public, timedelta(hours=24))
    assert diagnose(authority.pair.cert, cert, private) == ""
    with pytest.raises(ValueError, match="public key"):
        authority.certify_user("east:node:n1", b"x", timedelta(hours=24))
    assert KeyPair(cert, private).key == private


def test_a_life_of_an_hour_is_not_half_over_at_once() -> None:
    _, public = new_key()
    cert = Authority.create().certify_user("east:node:n1", public, timedelta(hours=1))
    now = datetime.now(UTC)
    assert not is_spent(validity_of(cert), now)
    assert is_spent(validity_of(cert), now + timedelta(minutes=31))
