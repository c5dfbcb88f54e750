"""Certificates: the mesh's CA, etcd servers and users, and what is wrong with one, in words.

Every key is ECDSA P-256 (BoringSSL in grpcio verifies neither P-521 nor Ed25519), every
certificate has a SAN and both key usages, and starts one hour back for clocks that lag. etcd users
are the CNs of client certificates. TLS 1.3 reports a refused client certificate only after the
client's handshake, as a lost connection, so the reason is looked for here (``diagnose``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: How long a certificate is valid, and how far back its validity starts.
LIFETIME = timedelta(days=365)
CA_LIFETIME = timedelta(days=3650)
BACKDATED = timedelta(hours=1)
#: X.520 allows no longer common name.
LONGEST_CN = 64


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key as PEM."""

    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of one certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """Paths of everything ``write_pki`` wrote."""

    ca: Path
    server: Files
    users: Mapping[str, Files]


class Authority:
    """A CA that issues certificates for servers and users."""

    def __init__(self, pair: KeyPair) -> None:
        self.pair = pair
        self._cert = x509.load_pem_x509_certificate(pair.cert)
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the CA's key is no elliptic-curve key")
        self._key = key

    @classmethod
    def create(cls, name: str = "meshgate CA") -> Authority:
        """Make a new self-signed CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = _key_usage(signs_certificates=True)
        builder = _builder(name, _name(name), key.public_key(), CA_LIFETIME)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(usage, critical=True)
        return cls(_pair(builder.sign(key, hashes.SHA256()), key))

    def issue(
        self, name: str, addresses: Sequence[str] = (), lifetime: timedelta = LIFETIME
    ) -> KeyPair:
        """Certificate with CN ``name``, valid for ``addresses`` (names or IP literals) and it."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self._cert.subject, key.public_key(), lifetime)
        names = [_alternative(text) for text in dict.fromkeys([name, *addresses])]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
        )
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def write_pki(directory: Path, users: Iterable[str], server_addresses: Sequence[str]) -> Pki:
    """Write a new CA, an etcd server's and the users' certificates into ``directory``.

    Files are ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key``, ``<user>.crt``,
    ``<user>.key``; keys are readable by their owner only. ``localhost`` is always served.
    """
    directory.mkdir(parents=True, exist_ok=True)
    authority = Authority.create()
    ca = _write(directory, "ca", authority.pair)
    served = [*server_addresses, "localhost", "127.0.0.1", "::1"]
    server = _write(directory, "server", authority.issue("etcd-server", served))
    return Pki(
        ca.cert,
        server,
        {user: _write(directory, user, authority.issue(user)) for user in users},
    )


def write_pairs(directory: Path, names: Mapping[str, str]) -> None:
    """Write a certificate of the CA in ``directory`` for each name, valid for another name, too."""
    ca = KeyPair((directory / "ca.crt").read_bytes(), (directory / "ca.key").read_bytes())
    for name, valid_for in names.items():
        _write(directory, name, Authority(ca).issue(name, [valid_for]))


def diagnose(ca: bytes, cert: bytes, key: bytes, now: datetime | None = None) -> str:
    """What makes the other side refuse this client certificate; empty when nothing does."""
    try:
        own = x509.load_pem_x509_certificate(cert)
        roots = x509.load_pem_x509_certificates(ca)
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        return f"certificate, key or CA is no readable PEM: {error}"
    now = now or datetime.now(UTC)
    if private.public_key() != own.public_key():
        return f"the key does not belong to certificate {_cn(own)}"
    return _invalid_time(own, now) or _unknown_issuer(own, roots) or _wrong_usage(own)


def _invalid_time(own: x509.Certificate, now: datetime) -> str:
    if now < own.not_valid_before_utc:
        return f"certificate {_cn(own)} is not yet valid: starts {own.not_valid_before_utc:%F %TZ}"
    if now > own.not_valid_after_utc:
        return f"certificate {_cn(own)} has expired: ended {own.not_valid_after_utc:%F %TZ}"
    return ""


def _unknown_issuer(own: x509.Certificate, roots: Sequence[x509.Certificate]) -> str:
    for root in roots:
        with suppress(ValueError, TypeError, InvalidSignature):
            own.verify_directly_issued_by(root)
            return ""
    return f"certificate {_cn(own)} is not signed by the configured CA"


def _wrong_usage(own: x509.Certificate) -> str:
    try:
        usages = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ""
    if ExtendedKeyUsageOID.CLIENT_AUTH in usages:
        return ""
    return f"certificate {_cn(own)} may not be used by a client (extended key usage)"


def _cn(cert: x509.Certificate) -> str:
    names = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(names[0].value)) if names else "without a common name"


def _name(name: str) -> x509.Name:
    if not 0 < len(name) <= LONGEST_CN:
        raise ValueError(f"common name {name!r} has {len(name)} characters, 1 to 64 are allowed")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: str, issuer: x509.Name, key: CertificateIssuerPublicKeyTypes, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pair(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(cert.public_bytes(pem), private)


def _write(directory: Path, name: str, pair: KeyPair) -> Files:
    files = Files(directory / f"{name}.crt", directory / f"{name}.key")
    files.cert.write_bytes(pair.cert)
    files.key.unlink(missing_ok=True)
    with os.fdopen(os.open(files.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(pair.key)
    return files
