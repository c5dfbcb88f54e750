"""``meshgate install``: what is applied, in which order, and what is waited for.

The order is Helm's: definitions of our kinds, hooks before the install, the chart. It may be
repeated: everything is applied again, and the hooks of an upgrade run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from mesh.install.api import Api, ApiError, path_of
from mesh.install.chart import Object, Rendered
from mesh.install.leaving import REQUEST, config_map

#: Until a Job of the chart has ended, and the pods of a DaemonSet are ready; seconds.
JOB_S, READY_S = 300.0, 600.0
_LOOK_S = 1.0
_WAITED = ("DaemonSet", "Deployment", "StatefulSet")


class InstallError(Exception):
    """Something that does not become as it should; the text names the object."""


def install(api: Api, rendered: Rendered, namespace: str, *, wait: bool) -> Iterator[str]:
    """Apply everything; a line for each object. Raises ApiError, InstallError."""
    upgrade = (
        api.find(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/meshgate-agent") is not None
    )
    yield from applied(api, [namespace_object(namespace), *rendered.definitions])
    if api.delete(path_of(config_map(namespace, REQUEST))):
        yield "the request of an uninstall that did not end is taken back"
    yield from run_hooks(api, rendered, "pre-upgrade" if upgrade else "pre-install")
    yield from applied(api, rendered.objects)
    if wait:
        for one in rendered.objects:
            if one["kind"] in _WAITED:
                await_ready(api, one)
                yield f"{name_of(one)} ready"


def dry_run(api: Api, rendered: Rendered, namespace: str) -> Iterator[str]:
    """What the API server says of each object, which stays as it is. Raises ApiError.

    Where the namespace is not there yet, objects inside cannot be judged.
    """
    every = [*rendered.definitions, *_hooks(rendered, "pre-install"), *rendered.objects]
    there = api.find(f"/api/v1/namespaces/{namespace}") is not None
    for one in every:
        if not there and _metadata(one).get("namespace"):
            yield f"{name_of(one)} (not judged: namespace {namespace} is not there yet)"
            continue
        api.apply(one, dry=True)
        yield f"{name_of(one)} (dry run)"


def namespace_object(namespace: str) -> Object:
    """The namespace; Pod Security would refuse the agent in one without this label."""
    labels: Object = {"pod-security.kubernetes.io/enforce": "privileged"}
    metadata: Object = {"name": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def applied(api: Api, objects: Iterable[Object]) -> Iterator[str]:
    """Apply these; a line for each. Raises ApiError that names the object."""
    for one in objects:
        try:
            api.apply(one)
        except ApiError as error:
            raise ApiError(error.status, f"{name_of(one)}: {error}") from error
        yield f"{name_of(one)} applied"


def run_hooks(api: Api, rendered: Rendered, moment: str) -> Iterator[str]:
    """Make the objects of this moment, wait for Jobs, delete them. Raises as ``applied``."""
    hooks = _hooks(rendered, moment)
    for one in hooks:
        if one["kind"] == "Job":
            _await(partial(_is_gone, api, path_of(one)), JOB_S, f"{name_of(one)} of before")
        yield from applied(api, [one])
        if one["kind"] == "Job":
            await_job(api, one)
            yield f"{name_of(one)} done"
    for one in hooks:
        api.delete(path_of(one))


def _is_gone(api: Api, path: str) -> bool:
    return not api.delete(path)


def await_job(api: Api, job: Object) -> None:
    """Wait until it has succeeded. Raises InstallError."""

    def ended() -> bool:
        found = _status(api.get(path_of(job)))
        failed = [one for one in found.get("conditions", ()) if one["type"] == "Failed"]
        if failed and failed[0]["status"] == "True":
            namespace = _metadata(job)["namespace"]
            logs = f"kubectl -n {namespace} logs job/{_metadata(job)['name']} --all-containers"
            raise InstallError(f"{name_of(job)}: {failed[0].get('message')}; see `{logs}`")
        return bool(found.get("succeeded"))

    _await(ended, JOB_S, name_of(job))


def await_ready(api: Api, one: Object) -> None:
    """Wait until its pods are of this version and ready. Raises InstallError."""

    def ready() -> bool:
        found = api.get(path_of(one))
        status = _status(found)
        wanted = status.get("desiredNumberScheduled", found["spec"].get("replicas", 0))
        updated = status.get("updatedNumberScheduled", status.get("updatedReplicas", 0))
        have = status.get("numberReady", status.get("readyReplicas", 0))
        seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return bool(seen and updated >= wanted and have >= wanted)

    _await(ready, READY_S, name_of(one))


def name_of(one: Object) -> str:
    """An object for people."""
    return f"{str(one['kind']).lower()}/{_metadata(one)['name']}"


def _hooks(rendered: Rendered, moment: str) -> list[Object]:
    return list(rendered.hooks.get(moment, ()))


def _metadata(one: Object) -> Any:
    return one["metadata"]


def _status(found: Any) -> Any:
    return found.get("status") or {}


def _await(true: Callable[[], bool], within_s: float, what: str) -> None:
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            raise InstallError(f"{what}: not done within {within_s:.0f} s")
        time.sleep(_LOOK_S)
