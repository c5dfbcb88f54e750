"""A real API server on loopback, with an etcd of its own; no kubelet, no scheduler."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import ssl
import subprocess
import time
from base64 import urlsafe_b64encode
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from clustermesh.etcd.client import Client
from clustermesh.issued import write_pki
from tests.interop.etcd_server import Etcd, free_port
from tests.tools.kube import build

START_S = 180.0
_PATCH = "application/merge-patch+json"
_ISSUER = "https://meshgate.test"
#: Seconds by which an expired token of a service account is still good.
LEEWAY_S = 60.0


class ApiServer:
    """One kube-apiserver; ``ask`` speaks to it as an administrator.

    ``users`` have a token each, by their name, and no rights but those that a test gives them.
    """

    def __init__(self, directory: Path, users: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.log = directory / "kube-apiserver.log"
        self.port = free_port()
        self._etcd = Etcd(directory / "etcd")
        self._token = secrets.token_hex(16)
        self.tokens = {user: secrets.token_hex(16) for user in users}
        self._account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._has_etcd = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pki = write_pki(directory / "pki", (), ())

    def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        if not self._has_etcd:
            self._etcd.start()
            self._has_etcd = True
        tokens = self.directory / "tokens.csv"
        rows = [f'{self._token},admin,admin,"system:masters"']
        rows += [f"{token},{user},{user}" for user, token in self.tokens.items()]
        tokens.write_text("\n".join(rows) + "\n")
        account = self.directory / "account.key"
        account.write_bytes(_pem(self._account))
        command = [
            str(build.binary("kube-apiserver")),
            f"--etcd-servers=http://{self._etcd.address}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._pki.server.cert}",
            f"--tls-private-key-file={self._pki.server.key}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-signing-key-file={account}",
            f"--service-account-key-file={account}",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",  # as everywhere where a CNI is installed by a chart
            "--disable-admission-plugins=ServiceAccount",  # no controller makes one
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._await_ready()

    def stop(self) -> None:
        self.kill()
        self._etcd.stop()
        self._has_etcd = False

    def kill(self) -> None:
        """End the API server without a word; its etcd runs on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wipe(self) -> None:
        """Another, empty cluster at the same address, with the same certificates and tokens."""
        self.stop()
        shutil.rmtree(self.directory / "etcd")
        self.start()

    def compact(self) -> None:
        """Let its etcd forget all history."""
        compact(self._etcd)

    def kubeconfig(self, user: str = "") -> Path:
        """A kubeconfig of an administrator, or of one of ``users``."""
        return self.kubeconfig_of(user or "admin", {"token": self.tokens.get(user, self._token)})

    def kubeconfig_of(self, name: str, user: dict[str, Any]) -> Path:
        """A kubeconfig with these credentials."""
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self._pki.ca),
        }
        tree = {
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "users": [{"name": name, "user": user}],
        }
        path = self.directory / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(tree))
        return path

    def account_token(self, namespace: str, name: str, uid: str, ends_s: float) -> str:
        """A token of a service account that is refused from then on (Unix time)."""
        account = {"name": name, "uid": uid}
        claims = {
            "iss": _ISSUER,
            "aud": [_ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "iat": int(ends_s - 3600),
            "nbf": int(ends_s - 3600),
            "exp": int(ends_s - LEEWAY_S),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": account},
        }
        parts = [{"alg": "RS256", "typ": "JWT"}, claims]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        signed = self._account.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_base64(signed)}"

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and body of one request."""
        context = ssl.create_default_context(cafile=str(self._pki.ca))
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": _PATCH if method == "PATCH" else "application/json",
            "Accept": "application/json",
        }
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] == b"{" else text.decode()
        finally:
            connection.close()

    def _await_ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the API server is not ready: {self.log.read_text()[-2000:]}")


def compact(etcd: Etcd) -> None:
    """Compact a store at its newest revision."""

    async def done() -> None:
        client = Client(etcd.endpoint)
        try:
            await client.compact((await client.status()).header.revision)
        finally:
            await client.aclose()

    asyncio.run(done())


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
