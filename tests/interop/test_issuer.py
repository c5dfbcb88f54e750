"""Certificates of processes in pods, from a real issuer, for a real etcd."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from etcd_server import Etcd, client_of, free_port, running

from clustermesh.asking import RefusedError, ask, write_files
from clustermesh.certs import new_key
from clustermesh.etcd.auth import NODE, SPEAKER
from clustermesh.etcd.channel import EtcdAddress
from clustermesh.etcd.client import Denied
from clustermesh.issued import write_pki
from clustermesh.issuer import Caller, Issuer
from clustermesh.store.own import revoked_key, revoked_value

TOKENS = {"agent of n1": Caller(NODE, "n1"), "speaker of n2": Caller(SPEAKER, "n2")}


@dataclass
class Issuing:
    etcd: Etcd
    pki: Path
    address: str
    issuer: Issuer

    @property
    def ca(self) -> bytes:
        return (self.pki / "ca.crt").read_bytes()

    def endpoint(self, folder: Path) -> EtcdAddress:
        place = [f"https://{self.etcd.address}"]
        return EtcdAddress(place, self.pki / "ca.crt", folder / "tls.crt", folder / "tls.key")

    def issued(self, token: str, into: Path) -> EtcdAddress:
        private, public = new_key()
        cert = ask(self.address, self.ca, token, public)
        into.mkdir(exist_ok=True)
        write_files(into, private, cert)
        return self.endpoint(into)


def reviewed(token: str) -> Caller:
    if token not in TOKENS:
        raise RefusedError("the API server does not know the token")
    return TOKENS[token]


@pytest.fixture
def issuing(tmp_path: Path) -> Iterator[Issuing]:
    pki = write_pki(tmp_path / "pki", ["root"], ["127.0.0.1"])
    with running(tmp_path / "etcd", pki) as etcd:
        issuer = Issuer("east", tmp_path / "pki", [f"https://{etcd.address}"], timedelta(hours=24))
        issuer.found_users()
        address = f"127.0.0.1:{free_port()}"
        server = issuer.server(address, reviewed)
        server.start()
        yield Issuing(etcd, tmp_path / "pki", address, issuer)
        server.stop(None)


async def written(endpoint: EtcdAddress, key: str) -> bool:
    """Whether this user may write the key."""
    async with client_of(endpoint) as client:
        try:
            await client.put(key, b"x")
        except Denied:
            return False
        return True


def test_a_node_gets_its_own_user_and_no_other_nodes(issuing: Issuing, tmp_path: Path) -> None:
    agent = issuing.issued("agent of n1", tmp_path / "n1")
    assert asyncio.run(written(agent, "meshgate/v1/east/pod/n1/shop/web"))
    assert not asyncio.run(written(agent, "meshgate/v1/east/pod/n2/shop/web"))
    assert not asyncio.run(written(agent, "meshgate/v1/west/pod/n1/shop/web"))
    speaker = issuing.issued("speaker of n2", tmp_path / "n2")
    assert asyncio.run(written(speaker, "meshgate/v1/east/status/speaker/n2/x"))
    assert not asyncio.run(written(speaker, "meshgate/v1/east/pod/n2/shop/web"))


def test_a_certificate_may_be_asked_for_again(issuing: Issuing, tmp_path: Path) -> None:
    first = issuing.issued("agent of n1", tmp_path / "a")
    second = issuing.issued("agent of n1", tmp_path / "b")
    assert (tmp_path / "a/tls.crt").read_bytes() != (tmp_path / "b/tls.crt").read_bytes()
    for endpoint in (first, second):
        assert asyncio.run(written(endpoint, "meshgate/v1/east/pod/n1/shop/web"))


def test_an_unknown_token_gets_nothing(issuing: Issuing) -> None:
    _, public = new_key()
    with pytest.raises(RefusedError, match="does not know the token"):
        ask(issuing.address, issuing.ca, "a stranger's", public)
    with pytest.raises(RefusedError, match="public key"):
        ask(issuing.address, issuing.ca, "agent of n1", b"no key")


def test_a_revoked_node_gets_nothing_until_it_is_issued_again(issuing: Issuing) -> None:
    _, public = new_key()
    mark = revoked_key("east", NODE, "n2")

    async def put(*, there: bool) -> None:
        async with client_of(issuing.etcd.endpoint) as client:
            if there:
                await client.put(mark, revoked_value(datetime.now(UTC)))
            else:
                await client.delete(mark)

    asyncio.run(put(there=True))
    with pytest.raises(RefusedError, match="meshgate cluster node n2 --issue"):
        ask(issuing.address, issuing.ca, "speaker of n2", public)
    asyncio.run(put(there=False))
    assert ask(issuing.address, issuing.ca, "speaker of n2", public)


def test_an_issuer_of_another_ca_is_not_believed(issuing: Issuing, tmp_path: Path) -> None:
    other = write_pki(tmp_path / "other", ["root"], [])
    _, public = new_key()
    with pytest.raises(OSError, match="issuer 127"):
        ask(issuing.address, other.ca.read_bytes(), "agent of n1", public)


def test_etcd_that_is_away_is_no_refusal(issuing: Issuing) -> None:
    """So the process asks again, and another issuer."""
    _, public = new_key()
    issuing.etcd.kill()
    with pytest.raises(OSError, match="etcd: "):
        ask(issuing.address, issuing.ca, "agent of n1", public)


def test_the_controller_gets_its_own_files_and_keeps_them(issuing: Issuing, tmp_path: Path) -> None:
    issuing.issuer.own("n1", tmp_path)
    first = (tmp_path / "tls.crt").read_bytes()
    issuing.issuer.own("n1", tmp_path)
    assert (tmp_path / "tls.crt").read_bytes() == first
    controller = issuing.endpoint(tmp_path)
    assert asyncio.run(written(controller, "meshgate/v1/east/leader"))
    assert not asyncio.run(written(controller, "meshgate/v1/west/leader"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_former_version_of_tls_is_refused(issuing: Issuing, version: ssl.TLSVersion) -> None:
    """RFC 8996."""
    assert spoken(issuing, ssl.TLSVersion.TLSv1_2) in ("TLSv1.2", "TLSv1.3")
    with pytest.raises(ssl.SSLError):
        spoken(issuing, version, most=version)


def spoken(
    issuing: Issuing, least: ssl.TLSVersion, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> str | None:
    """The version that the issuer speaks with a client that knows these."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # a client of today would refuse by itself
    context.minimum_version, context.maximum_version = least, most
    context.set_alpn_protocols(["h2"])
    host, _, port = issuing.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname="issuer") as secure,
    ):
        return secure.version()
