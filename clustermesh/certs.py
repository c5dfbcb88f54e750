"""Certificates: the mesh's CA, etcd servers and users, and what is wrong with one, in words.

Every key is ECDSA P-256 (BoringSSL in grpcio verifies neither P-521 nor Ed25519), and every
certificate starts one hour back for clocks that lag. Each has the usage of its role and no other:
a server's is good for servers, a user's for clients, the CA's for signing. etcd users are the CNs
of client certificates. TLS 1.3 reports a refused client certificate only after the client's
handshake, as a lost connection, so the reason is looked for here (``diagnose``). ``issued.py``
keeps the folder of the CA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: How long a certificate is valid: a process's, which is renewed in place; a server's, root's and
#: that of a user of another mesh; the CA's.
PROCESS_LIFETIME = timedelta(days=7)
LIFETIME = timedelta(days=365)
CA_LIFETIME = timedelta(days=3650)
#: How far back the validity of a certificate starts.
BACKDATED = timedelta(hours=1)
#: Part of a certificate's life after which it is renewed.
HALF = 0.5
#: A certificate with a long life ends soon when this is left of it.
SHORT = timedelta(days=30)
#: X.520 allows no longer common name.
LONGEST_CN = 64


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key as PEM."""

    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate begins and ends, and how it is named in a sentence."""

    name: str
    begin: datetime
    end: datetime

    def is_short(self, now: datetime) -> bool:
        """Whether less than a third of it is left, or 30 days of a long one."""
        return self.end - now < min((self.end - self.begin) / 3, SHORT)


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

    def issue_server(
        self, name: str, addresses: Sequence[str] = (), lifetime: timedelta = LIFETIME
    ) -> KeyPair:
        """Certificate of a server, valid for ``addresses`` (names or IP literals) and ``name``."""
        names = [_alternative(text) for text in dict.fromkeys([name, *addresses])]
        return self._issue(name, lifetime, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_user(self, name: str, lifetime: timedelta = LIFETIME) -> KeyPair:
        """Certificate of a client whose CN is ``name``. It has no SAN, since it is no server's."""
        return self._issue(name, lifetime, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def certify_user(self, name: str, public: bytes, lifetime: timedelta) -> bytes:
        """Certificate of a client whose key this side never sees; ``public`` is its public key.

        Raises ValueError for a key that is none, or of another kind than ours.
        """
        try:
            key = serialization.load_pem_public_key(public)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"no public key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("expected a public key on the curve P-256")
        built = self._build(name, key, lifetime, ExtendedKeyUsageOID.CLIENT_AUTH, ())
        return built.public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        name: str,
        lifetime: timedelta,
        usage: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        return _pair(self._build(name, key.public_key(), lifetime, usage, names), key)

    def _build(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        lifetime: timedelta,
        usage: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> x509.Certificate:
        builder = _builder(name, self._cert.subject, key, lifetime)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def revocation_list(self, revoked: Mapping[int, datetime]) -> bytes:
        """PEM of the list with these serial numbers, each with the time of its revocation.

        etcd reads the file at each handshake and compares serial numbers; it looks at no signature
        and no date (``client/pkg/transport/listener_tls.go``).
        """
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._cert.subject)
            .last_update(now)
            .next_update(now + CA_LIFETIME)
        )
        for serial, at in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_key() -> tuple[bytes, bytes]:
    """A private key and its public key, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _private(key), public


def signature(key: bytes, data: bytes) -> bytes:
    """A signature over SHA-256 of the data, as ``openssl dgst -sha256 -verify`` takes it.

    The key is of ECDSA or RSA (PKCS #1 v1.5). Raises ValueError for another one.
    """
    private = serialization.load_pem_private_key(key, None)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(data, padding.PKCS1v15(), hashes.SHA256())
    raise ValueError("expected a key of ECDSA or RSA")


def serial_of(cert: bytes) -> int:
    """The serial number of a certificate. Raises ValueError."""
    return x509.load_pem_x509_certificate(cert).serial_number


def names_of(cert: bytes) -> list[str]:
    """The names and addresses for which a server's certificate is valid."""
    own = x509.load_pem_x509_certificate(cert)
    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def validity_of(cert: bytes) -> Validity:
    """How long a certificate is valid. Raises ValueError."""
    own = x509.load_pem_x509_certificate(cert)
    return Validity(_cn(own), own.not_valid_before_utc, own.not_valid_after_utc)


def is_spent(life: Validity, now: datetime) -> bool:
    """Whether half of a certificate's life is over, from when it was made on."""
    made = life.begin + BACKDATED
    return now - made >= HALF * (life.end - made)


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
        digital_signature=not signs_certificates,
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
    return KeyPair(cert.public_bytes(serialization.Encoding.PEM), _private(key))


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
