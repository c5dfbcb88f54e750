"""Where the API server is and who we are: the door to the package kubernetes.

The package reads kubeconfig and service account, runs exec plugins, and refreshes tokens. Its calls
block (an exec plugin is a child process), so they run in a thread.

Rule 1: before each request the package is asked for the token: it reads a service account's again
        after a minute and runs an exec plugin again when its token has expired.
Rule 2: everything is read again after a 401, and when one of the files has changed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import yaml
from kubernetes.client.configuration import Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_PORT_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from kubernetes.config.kube_config import KubeConfigLoader

from mesh.k8s.settings import Kubernetes

_TOKEN = "BearerToken"  # noqa: S105 - the package's name for it
#: Inode, size and time of last change by path; None: no such file.
Stamps = dict[str, tuple[int, int, int] | None]


class NoAccessError(OSError):
    """The credentials cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """What a connection needs. Another object whenever any of it has changed."""

    host: str
    tls: ssl.SSLContext
    server_name: str | None = None
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    way: Way
    configuration: Configuration
    stamps: Stamps


class Access:
    """Access by these settings; ``environ`` and the files of the service account are a pod's."""

    def __init__(
        self,
        settings: Kubernetes,
        *,
        token: Path = Path(SERVICE_TOKEN_FILENAME),
        ca: Path = Path(SERVICE_CERT_FILENAME),
    ) -> None:
        self._settings = settings
        self._token, self._ca = token, ca
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The API server as findings name it."""
        if self._loaded:
            return f"API server {self._loaded.way.host}"
        return f"API server {self._settings.host or self._settings.kubeconfig or ''}".rstrip()

    async def way(self) -> tuple[Way, str]:
        """The way to the API server, and the value of the header Authorization, or nothing.

        Raises NoAccessError.
        """
        return await asyncio.to_thread(self._current)

    def renew(self) -> None:
        """Read everything again before the next request: the credentials were refused."""
        with self._lock:
            self._loaded = None

    def _current(self) -> tuple[Way, str]:
        with self._lock:
            try:
                loaded = self._loaded
                if loaded is None or loaded.stamps != _stamps(loaded.stamps):
                    loaded = self._loaded = self._load()
                token = loaded.configuration.get_api_key_with_prefix(_TOKEN)
            except ConfigException as error:
                raise NoAccessError(str(error)) from error
            except ssl.SSLError as error:
                raise NoAccessError(f"certificate or key: {error}") from error
            except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
                raise NoAccessError(str(error)) from error
        return loaded.way, _capital(token or "")

    def _load(self) -> _Loaded:
        configuration = Configuration()
        file = self._settings.kubeconfig
        if file is not None:
            _load_kubeconfig(file, configuration)
        else:
            self._load_account(configuration)
        # Set before the proxy is asked for: the environment's depends on the host.
        configuration.host = host = (self._settings.host or configuration.host).rstrip("/")
        files = [configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file]
        stamps = _stamps(str(one) for one in (file, *files) if one)
        way = Way(host, _tls(configuration), configuration.tls_server_name, _proxy(configuration))
        return _Loaded(way, configuration, stamps)

    def _load_account(self, configuration: Configuration) -> None:
        environ: dict[str, str] = dict(os.environ)
        if self._settings.host:  # the package wants the variables, and they need not be there
            environ |= {SERVICE_HOST_ENV_NAME: "named", SERVICE_PORT_ENV_NAME: "443"}
        loader: Any = InClusterConfigLoader(  # type: ignore[no-untyped-call]
            token_filename=str(self._token), cert_filename=str(self._ca), environ=environ
        )
        loader.load_and_set(configuration)


def _load_kubeconfig(file: Path, configuration: Configuration) -> None:
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    loader: Any = KubeConfigLoader(  # type: ignore[no-untyped-call]
        document, config_base_path=str(file.parent.absolute())
    )
    loader.load_and_set(configuration)


def _tls(configuration: Configuration) -> ssl.SSLContext:
    # An explicit file: SSL_CERT_FILE of the environment must not add authorities.
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if not configuration.verify_ssl:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    return tls


def _proxy(configuration: Configuration) -> str | None:
    """The proxy of kubeconfig or environment, unless the environment exempts the host."""
    exempt = {"no": configuration.no_proxy or ""}
    if proxy_bypass(urlsplit(configuration.host).netloc, exempt):
        return None
    return configuration.proxy


def _stamps(paths: Iterable[str]) -> Stamps:
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        info = Path(path).stat()
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


def _capital(token: str) -> str:
    """``bearer x`` of the package as ``Bearer x``: some proxies compare the word as written."""
    kind, space, value = token.partition(" ")
    return f"{kind.capitalize()}{space}{value.strip()}" if space else token
