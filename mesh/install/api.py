"""Requests to an API server, one after the other: for commands, and for what runs beside a process.

The processes themselves read by ``mesh/k8s``, which follows thousands of objects. Here one object
is read, written or deleted at a time, and a pod on each node waits for one request for months: that
must cost no event loop and none of the 70 MB of the package kubernetes. So this is the standard
library, and only the way from outside of a cluster (kubeconfig) comes from ``mesh/k8s/access.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

#: Files of a pod's service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FIELD_MANAGER = "meshgate-install"
_ANSWER_S, _WATCH_S = 30.0, 300
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
#: Resources by kind, and whether a namespace has them.
_RESOURCES: Mapping[str, tuple[str, bool]] = {
    "Namespace": ("namespaces", False),
    "ServiceAccount": ("serviceaccounts", True),
    "Secret": ("secrets", True),
    "ConfigMap": ("configmaps", True),
    "Service": ("services", True),
    "CustomResourceDefinition": ("customresourcedefinitions", False),
    "ClusterRole": ("clusterroles", False),
    "ClusterRoleBinding": ("clusterrolebindings", False),
    "Role": ("roles", True),
    "RoleBinding": ("rolebindings", True),
    "DaemonSet": ("daemonsets", True),
    "Deployment": ("deployments", True),
    "StatefulSet": ("statefulsets", True),
    "Job": ("jobs", True),
    "PodDisruptionBudget": ("poddisruptionbudgets", True),
    "ValidatingAdmissionPolicy": ("validatingadmissionpolicies", False),
    "ValidatingAdmissionPolicyBinding": ("validatingadmissionpolicybindings", False),
}


class ApiError(Exception):
    """A request that did not succeed; ``status`` 0: there was no answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """One API server. All methods raise ApiError."""

    def __init__(self, host: str, tls: ssl.SSLContext, authorization: Callable[[], str]) -> None:
        """``host``: ``https://host:port``; ``authorization`` makes the value of that header."""
        self.host = host
        self._tls, self._authorization = tls, authorization

    def get(self, path: str, **query: str) -> Any:
        """The object or list at this path."""
        return self._ask("GET", path, query)

    def version(self) -> tuple[str, str]:
        """The API server's version, and its time as its header Date says it (RFC 9110)."""
        connection = self._connection(_ANSWER_S)
        try:
            answer = self._answer(connection, "GET", "/version", None, "")
            return json.loads(answer.read())["gitVersion"], answer.getheader("Date") or ""
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise ApiError(0, f"{self.host}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def find(self, path: str) -> Any:
        """The object at this path, or None."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def post(self, path: str, document: object) -> Any:
        """Make an object, or ask for a review."""
        return self._ask("POST", path, {}, document, "application/json")

    def apply(self, document: Mapping[str, Any], *, dry: bool = False) -> Any:
        """The object as this document wants it, by server-side apply; ``dry``: only judged."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry else {}
        return self._ask("PATCH", path_of(document), query, document, _APPLY)

    def merge(self, path: str, document: object) -> Any:
        """Change an object that is there by a merge patch."""
        return self._ask("PATCH", path, {"fieldManager": FIELD_MANAGER}, document, _MERGE)

    def delete(self, path: str, **query: str) -> bool:
        """Delete an object, and later what belongs to it; False when it is not there."""
        try:
            self._ask("DELETE", path, {"propagationPolicy": "Background", **query})
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def watch(self, path: str, **query: str) -> Iterator[tuple[str, Any]]:
        """Types and objects of the events for five minutes, silence included."""
        wanted = {"watch": "true", "timeoutSeconds": str(_WATCH_S), **query}
        connection = self._connection(_WATCH_S + _ANSWER_S)
        try:
            answer = self._answer(connection, "GET", f"{path}?{urlencode(wanted)}", None, "")
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 0)), _said(event["object"]))
                yield event["type"], event["object"]
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise ApiError(0, f"{self.host}: {error}") from error
        finally:
            connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        document: object = None,
        content: str = "",
    ) -> Any:
        connection = self._connection(_ANSWER_S)
        try:
            whole = f"{path}?{urlencode(query)}" if query else path
            return json.loads(self._answer(connection, method, whole, document, content).read())
        except (OSError, HTTPException, ValueError) as error:
            raise ApiError(0, f"{self.host}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self, timeout: float) -> HTTPSConnection:
        parts = urlsplit(self.host)
        return HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=self._tls)

    def _answer(
        self, connection: HTTPSConnection, method: str, path: str, document: object, content: str
    ) -> HTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "meshgate"}
        headers |= {"Content-Type": content} if content else {}
        if token := self._authorization():
            headers["Authorization"] = token
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        if answer.status >= 300:
            raise ApiError(answer.status, _said(answer.read(1 << 16)))
        return answer


def path_of(document: Mapping[str, Any]) -> str:
    """The path of an object of the chart."""
    plural, namespaced = _RESOURCES[document["kind"]]
    group = document["apiVersion"]
    metadata = document["metadata"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    inside = f"/namespaces/{metadata['namespace']}" if namespaced else ""
    return f"{root}{inside}/{plural}/{metadata['name']}"


def of_pod(host: str | None = None) -> Api:
    """The API server of the cluster to which this pod belongs, as its service account.

    ``host``: its address, where nothing serves the one in the environment. Raises ApiError.
    """
    if host is None:
        names = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
        address, port = (os.environ.get(name, "") for name in names)
        if not address:
            raise ApiError(0, "this is no pod: no KUBERNETES_SERVICE_HOST in the environment")
        host = f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
    try:
        tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    except OSError as error:
        raise ApiError(0, f"{ACCOUNT / 'ca.crt'}: {error}") from error
    # The kubelet replaces the token about each hour.
    return Api(host, tls, lambda: f"Bearer {(ACCOUNT / 'token').read_text().strip()}")


def of_kubeconfig(kubeconfig: Path, host: str | None = None) -> Api:
    """The API server that a kubeconfig names, as its user. Raises ApiError."""
    from mesh.k8s.access import Access, NoAccessError  # noqa: PLC0415 - a second of imports
    from mesh.k8s.settings import Kubernetes  # noqa: PLC0415

    access = Access(Kubernetes(host=host, kubeconfig=kubeconfig))
    try:
        way, _ = asyncio.run(access.way())
    except NoAccessError as error:
        raise ApiError(0, f"{kubeconfig}: {error}") from error
    return Api(way.host, way.tls, lambda: asyncio.run(access.way())[1])


def _said(answer: bytes | Mapping[str, Any]) -> str:
    """The message of a Status, or the beginning of whatever it is."""
    if isinstance(answer, bytes):
        try:
            status = json.loads(answer)
        except ValueError:
            status = {"message": answer[:200].decode(errors="replace")}
    else:
        status = answer
    return str(status.get("message") or status.get("reason") or "no text")
