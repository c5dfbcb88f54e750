"""Certificates of servers and users: usage, life, renewal in place, the revocation list."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from clustermesh.certs import Authority, Validity, diagnose, names_of, serial_of, validity_of
from clustermesh.etcd.auth import NODE, SPEAKER, EtcdUser, user_grants
from clustermesh.etcd.channel import EtcdAddress, Lives
from clustermesh.issued import Folder, write_pki
from clustermesh.publish import PREFIXES

AGENT = "east:node:east-1"


def test_certificates_have_names_the_usage_of_their_role_and_an_hour_of_grace(
    tmp_path: Path,
) -> None:
    pki = write_pki(tmp_path, ["root"], ["10.99.0.31", "fd99::31", "etcd.test"], [AGENT])
    server = x509.load_pem_x509_certificate(pki.server.cert.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert IPv4Address("10.99.0.31") in names.get_values_for_type(x509.IPAddress)
    assert "etcd.test" in names.get_values_for_type(x509.DNSName)
    assert usages(server) == {ExtendedKeyUsageOID.SERVER_AUTH}
    age = datetime.now(UTC) - server.not_valid_before_utc
    assert timedelta(minutes=59) < age < timedelta(minutes=61)
    user = pki.users[AGENT]
    own = x509.load_pem_x509_certificate(user.cert.read_bytes())
    assert usages(own) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert own.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=7)
    assert own.subject.rfc4514_string() == f"CN={AGENT}"
    assert user.key.stat().st_mode & 0o777 == 0o600
    assert diagnose(pki.ca.read_bytes(), user.cert.read_bytes(), user.key.read_bytes()) == ""
    with pytest.raises(ValueError, match="65 characters"):
        write_pki(tmp_path, ["x" * 65], [])


def usages(cert: x509.Certificate) -> set[x509.ObjectIdentifier]:
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    return set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_signs_certificates_and_lists_and_nothing_else() -> None:
    own = x509.load_pem_x509_certificate(Authority.create().pair.cert)
    usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature


def test_a_certificate_that_is_half_over_is_renewed_in_place_with_the_same_life(
    tmp_path: Path,
) -> None:
    pki = write_pki(tmp_path, ["root"], ["10.99.0.31"], [AGENT])
    folder, agent = Folder(tmp_path), pki.users[AGENT]
    assert folder.renew() == []
    first, now = agent.cert.read_bytes(), datetime.now(UTC)
    if os.geteuid() == 0:
        os.chown(agent.key, 12345, 12345)
    owner = agent.key.stat().st_uid
    assert folder.renew(now=now + timedelta(days=4)) == [AGENT]
    second = agent.cert.read_bytes()
    assert (agent.key.stat().st_uid, agent.key.stat().st_mode & 0o777) == (owner, 0o600)
    assert second != first
    assert diagnose(pki.ca.read_bytes(), second, agent.key.read_bytes()) == ""
    assert abs(validity_of(second).end - validity_of(first).end) < timedelta(minutes=1)
    assert folder.renew(now=now + timedelta(days=200)) == ["root", AGENT, "server"]
    assert "10.99.0.31" in names_of(pki.server.cert.read_bytes())


def test_a_revoked_user_has_all_its_certificates_on_the_list_and_gets_no_new_one(
    tmp_path: Path,
) -> None:
    pki = write_pki(tmp_path, ["root"], [], [AGENT, "east:node:east-10"])
    folder = Folder(tmp_path)
    again = folder.issue(AGENT)
    serials = {serial_of(pki.users[AGENT].cert.read_bytes()), serial_of(again.cert)}
    assert folder.revoke([AGENT]) == 2
    listed = x509.load_pem_x509_crl(pki.crl.read_bytes())
    assert {entry.serial_number for entry in listed} == serials
    ca = x509.load_pem_x509_certificate(pki.ca.read_bytes())
    public = ca.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert listed.is_signature_valid(public)
    later = datetime.now(UTC) + timedelta(days=4)
    assert folder.renew(now=later) == ["east:node:east-10"]
    assert folder.revoke(["east:node:east-10"]) == 2
    assert len(list(x509.load_pem_x509_crl(pki.crl.read_bytes()))) == 4


@pytest.mark.parametrize(
    ("life", "left", "short"),
    [(timedelta(days=7), 2.4, False), (timedelta(days=7), 2.2, True),
     (timedelta(days=3650), 31, False), (timedelta(days=3650), 29, True),
     (timedelta(days=7), -1, True)],
)  # fmt: skip
def test_a_short_rest_of_a_life_is_said(life: timedelta, left: float, *, short: bool) -> None:
    now = datetime.now(UTC)
    end = now + timedelta(days=left)
    assert Validity("x", end - life, end).is_short(now) is short


def test_the_end_of_a_certificate_is_told_and_a_renewed_file_ends_that(tmp_path: Path) -> None:
    pki = write_pki(tmp_path, [], [], [AGENT])
    files = pki.users[AGENT]
    lives = Lives(EtcdAddress(["10.0.0.1:2379"], pki.ca, files.cert, files.key))
    now = datetime.now(UTC)
    assert lives.ending(now) == ""
    assert f"'{AGENT}' ends" in lives.ending(now + timedelta(days=5))
    assert f"'{AGENT}' has ended" in lives.ending(now + timedelta(days=8))
    Folder(tmp_path).renew(timedelta(days=30), spent=0)
    assert lives.ending(now + timedelta(days=5)) == ""
    files.cert.write_text("nonsense")
    assert "no readable PEM" in lives.ending(now)
    files.cert.unlink()
    assert str(files.cert) in lives.ending(now)


def test_a_user_whose_name_is_too_long_for_a_certificate_has_a_hash_in_it() -> None:
    user = EtcdUser("east", NODE, "ip-10-0-0-1." + "x" * 60)
    assert len(user.cn) == 64
    assert user.cn.startswith("east:node:ip-10-0-0-1.xx")
    other = EtcdUser("east", NODE, user.name + "y")
    assert other.cn != user.cn
    assert Authority.create().issue_user(user.cn)
    assert EtcdUser("east", SPEAKER, "n1").cn == "east:speaker:n1"


def test_a_node_writes_its_pods_what_it_holds_and_its_status_and_nothing_else() -> None:
    def writable(role: str) -> set[str]:
        grants = user_grants(EtcdUser("east", role, "n1"), PREFIXES)
        return {grant.key for grant in grants if grant.write}

    own = "meshgate/v1/east/"
    held = {f"{own}programmed/n1", f"{own}lent/n1/", f"{own}demand/n1"}
    assert writable(NODE) == {f"{own}pod/n1/", f"{own}status/node/n1/"} | held
    assert writable(SPEAKER) == {f"{own}status/speaker/n1/", f"{own}learned/n1/"}
