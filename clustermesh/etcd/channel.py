"""A gRPC channel to etcd: target, options and credentials, and a failed call in words.

Called by ``etcd.Client`` only. The options' reasons are outside facts: etcd refuses pings faster
than 5 s, ``grpc.keepalive_timeout_ms`` has no effect in grpcio (a black-holed server would be
noticed after 70 s), without a pool of its own two clients would share one connection, and a proxy
named in the environment would be asked for etcd.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import grpc
import grpc.aio

from clustermesh.certs import Validity, diagnose, validity_of
from mesh.core.model import Network

OPTIONS: dict[str, str | int] = {
    "grpc.lb_policy_name": "pick_first",
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.http2.ping_timeout_ms": 3_000,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
}
#: What grpcio says when a server with TLS closes during or right after the handshake.
HANDSHAKE_LOST = ("Unwrap failed", "TSI_DATA_CORRUPTED", "Socket closed", "Handshake")
#: What grpcio 1.85 and 1.66 say when the server's certificate is for somebody else.
WRONG_NAME = ("Hostname Verification", "is not in peer certificate")


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """Where etcd is, and who we are there; no files mean plaintext.

    ``endpoints`` are ``host:port`` with or without a scheme, all of one kind: IPv4, IPv6
    (``[::1]:2379``), one name, or one ``unix:/path``. ``server_name`` is the name that the server's
    certificate must hold; empty: the first endpoint's host.
    """

    endpoints: Sequence[str]
    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str = ""

    @property
    def text(self) -> str:
        """The endpoints as a human names them."""
        return ", ".join(self.endpoints)

    @property
    def networks(self) -> dict[Network, None]:
        """The endpoints that are addresses; where a name leads is not asked."""
        hosts = [host(text) for text in self.endpoints if not text.startswith("unix:")]
        return dict.fromkeys(ip_network(name) for name in hosts if _is_address(name))

    @property
    def files(self) -> tuple[Path, ...]:
        """CA, certificate, key: as many as are configured."""
        return tuple(Path(name) for name in (self.ca, self.cert, self.key) if name)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The content of the files of an ``EtcdAddress`` when the channel was made."""

    ca: bytes
    cert: bytes | None
    key: bytes | None


def check(endpoint: EtcdAddress) -> None:
    """Raise ValueError for endpoints that can never work."""
    target(endpoint.endpoints)
    if not endpoint.ca and any(text.startswith("https:") for text in endpoint.endpoints):
        raise ValueError(f"etcd endpoints {endpoint.text}: https needs a CA")
    if bool(endpoint.cert) != bool(endpoint.key):
        raise ValueError(f"etcd endpoints {endpoint.text}: a certificate needs its key")


def target(endpoints: Sequence[str]) -> str:
    """Name of the endpoints in gRPC's notation, shuffled.

    Raises ValueError when they are of several kinds: gRPC would fail each call, not the start.
    """
    plain = [text.removeprefix("https://").removeprefix("http://") for text in endpoints]
    kinds = {_kind(text) for text in plain}
    if len(kinds) != 1 or (len(plain) > 1 and kinds <= {"dns", "unix"}):
        raise ValueError(
            f"etcd endpoints {', '.join(endpoints) or '(none)'}: give IPv4 addresses, "
            "or IPv6 addresses, or one name, or one unix socket"
        )
    kind = kinds.pop()
    if kind == "unix":
        return plain[0]
    if kind == "dns":
        return f"dns:///{plain[0]}"
    return f"{kind}:" + ",".join(random.sample(plain, len(plain)))


def host(endpoint: str) -> str:
    """Host part of ``host:port``, without the brackets of IPv6."""
    plain = endpoint.removeprefix("https://").removeprefix("http://")
    return plain.rpartition(":")[0].strip("[]")


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _kind(text: str) -> str:
    if text.startswith("unix:"):
        return "unix"
    name, colon, port = text.rpartition(":")
    if not (colon and name and port.isdecimal()):
        raise ValueError(f"etcd endpoint {text!r} is not host:port")
    try:
        return f"ipv{ip_address(name.strip('[]')).version}"
    except ValueError:
        return "dns"


def read_secrets(endpoint: EtcdAddress) -> Secrets | None:
    """The files' content; None for plaintext. Raises OSError with the file's name."""
    if not endpoint.ca:
        return None
    return Secrets(
        Path(endpoint.ca).read_bytes(),
        Path(endpoint.cert).read_bytes() if endpoint.cert else None,
        Path(endpoint.key).read_bytes() if endpoint.key else None,
    )


def stamp(endpoint: EtcdAddress) -> tuple[int, ...]:
    """Changes when one of the files is replaced; 0 for a file that is not there."""
    stats = [file.stat() if file.exists() else None for file in endpoint.files]
    return tuple(stat.st_mtime_ns if stat else 0 for stat in stats)


def is_usable(endpoint: EtcdAddress) -> bool:
    """Whether the files go together: a key may be there before its certificate."""
    try:
        secrets = read_secrets(endpoint)
    except OSError:
        return False
    if secrets is None or secrets.cert is None or secrets.key is None:
        return True
    return not diagnose(secrets.ca, secrets.cert, secrets.key)


class Lives:
    """How long our certificate and its authority's are valid; read again when a file changes."""

    def __init__(self, endpoint: EtcdAddress) -> None:
        self._endpoint = endpoint
        self._stamp: tuple[int, ...] | None = None
        self._lives: Mapping[Path, Validity] = {}
        self._problem = ""

    def ending(self, now: datetime) -> str:
        """The certificate that ends soon or has ended, in words; empty when none does."""
        now_on_disk = stamp(self._endpoint)
        if now_on_disk != self._stamp:
            self._stamp = now_on_disk
            self._read()
        short = {file: life for file, life in self._lives.items() if life.is_short(now)}
        if self._problem or not short:
            return self._problem
        file, life = min(short.items(), key=lambda one: one[1].end)
        word = "ends" if life.end > now else "has ended:"
        return f"certificate {life.name} {word} {life.end:%F %TZ} ({file})"

    def _read(self) -> None:
        files = [Path(name) for name in (self._endpoint.cert, self._endpoint.ca) if name]
        self._lives, self._problem = {}, ""
        try:
            self._lives = {file: validity_of(file.read_bytes()) for file in files}
        except OSError as error:
            self._problem = f"{error.filename}: {error.strerror}"
        except ValueError as error:
            self._problem = f"{', '.join(map(str, files))}: no readable PEM: {error}"


def open_channel(endpoint: EtcdAddress, secrets: Secrets | None) -> grpc.aio.Channel:
    """A channel for an event loop; it connects on its first call."""
    address, options = target(endpoint.endpoints), _options(endpoint, secrets)
    if secrets is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, _credentials(secrets), options=options)


def open_blocking_channel(endpoint: EtcdAddress, secrets: Secrets | None) -> grpc.Channel:
    """A channel for a thread without an event loop; it connects on its first call."""
    address, options = target(endpoint.endpoints), _options(endpoint, secrets)
    if secrets is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, _credentials(secrets), options)


def _credentials(secrets: Secrets) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.cert)


def _options(endpoint: EtcdAddress, secrets: Secrets | None) -> list[tuple[str, str | int]]:
    options = dict(OPTIONS)
    if secrets and (endpoint.server_name or len(endpoint.endpoints) > 1):
        # With several addresses in one target the host check fails although the SAN is right.
        name = endpoint.server_name or host(endpoint.endpoints[0])
        options["grpc.ssl_target_name_override"] = name
    return list(options.items())


def problem(endpoint: EtcdAddress, secrets: Secrets | None, details: str) -> str:
    """One sentence on why etcd does not answer, from gRPC's words and our own certificate."""
    where = f"etcd at {endpoint.text}"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"{where}: its certificate is not signed by the CA in {endpoint.ca}"
    if any(text in details for text in WRONG_NAME):
        name = endpoint.server_name or host(endpoint.endpoints[0])
        return f"{where}: its certificate does not hold the name {name}"
    if secrets and secrets.cert and secrets.key:
        fault = diagnose(secrets.ca, secrets.cert, secrets.key)
        if fault:
            return f"{where} refuses us: {fault} ({endpoint.cert})"
    if secrets and any(text in details for text in HANDSHAKE_LOST):
        who = f"our certificate {endpoint.cert}" if secrets.cert else "us: we show no certificate"
        return f"{where} closed the connection: it seems to refuse {who}; its log says why"
    return f"{where}: {_reason(details)}"


def _reason(details: str) -> str:
    if "Connection refused" in details:
        return "connection refused"
    if not details or any(text in details for text in ("Deadline", "timed out", "Timeout")):
        return "no answer in time"
    return details.removeprefix("etcdserver: ")
