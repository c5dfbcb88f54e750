"""A real API server on loopback, with an etcd of its own; no kubelet, no scheduler."""

from __future__ import annotations

import json
import secrets
import ssl
import subprocess
import time
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from clustermesh.issued import write_pki
from tests.interop.etcd_server import Etcd, free_port
from tests.tools.kube import build

START_S = 60.0


class ApiServer:
    """One kube-apiserver; ``ask`` speaks to it as an administrator."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "kube-apiserver.log"
        self.port = free_port()
        self._etcd = Etcd(directory / "etcd")
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._pki = write_pki(directory / "pki", (), ())

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        self._etcd.start()
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        account = self.directory / "account.key"
        account.write_bytes(_rsa_key())
        command = [
            str(build.binary("kube-apiserver")),
            f"--etcd-servers=http://{self._etcd.address}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._pki.server.cert}",
            f"--tls-private-key-file={self._pki.server.key}",
            "--service-account-issuer=https://meshgate.test",
            f"--service-account-signing-key-file={account}",
            f"--service-account-key-file={account}",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._await_ready()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._etcd.stop()

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and body of one request."""
        context = ssl.create_default_context(cafile=str(self._pki.ca))
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
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


def _rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
