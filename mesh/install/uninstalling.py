"""``meshgate uninstall``: nodes first, then the chart.

Agents are asked by ConfigMap (``leaving.py``) and report. A node that does not answer is named,
with the command to run there, and nothing is deleted before all others have left. Then whatever
uses the folders of hosts goes, agents empty these folders, and last the chart's objects go.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mesh.install.api import Api, ApiError, path_of
from mesh.install.chart import Object, Rendered
from mesh.install.installing import InstallError, name_of
from mesh.install.leaving import (
    DRAIN,
    DRAINED,
    FAILED,
    LEAVE,
    LEFT,
    REFUSED,
    REPORTS,
    REQUEST,
    WIPE,
    WIPED,
    Report,
    Request,
    config_map,
    reports_of,
)

#: Seconds for which nodes are waited for.
LEAVE_S = 240.0
#: Seconds in which a node says that it is drained, once its connections had their time.
_ANSWER_S = 30.0
_LOOK_S = 1.0
#: Besides the agent, whatever has files on hosts.
_OTHERS = (
    ("deployments", "meshgate-controller"),
    ("deployments", "meshgate-feed"),
    ("daemonsets", "meshgate-speaker"),
    ("statefulsets", "meshgate-etcd"),
)
#: Made by ``meshgate etcd init``, so no part of the chart.
_MADE = ("configmaps/meshgate-etcd", "secrets/meshgate-ca", "secrets/meshgate-etcd-server")


@dataclass(frozen=True, slots=True)
class Away:
    """A node whose agent did not answer."""

    node: str
    image: str

    def __str__(self) -> str:
        """What to do there."""
        debug = f"kubectl debug node/{self.node} --image={self.image} --profile=sysadmin"
        return (
            f"node {self.node} did not answer. "
            f"When it is back: {debug} -- meshgate leave --root /host"
        )


def leave_nodes(
    api: Api, namespace: str, *, evict: bool, drain_s: int = 0, within_s: float = LEAVE_S
) -> Iterator[str]:
    """Ask the agents, and wait; a line for each step. Raises ApiError, InstallError.

    With ``drain_s`` all nodes are drained before the first one leaves: one that has no connection
    of its own may be the gateway of another's.

    Nodes that did not answer are lines, too: an uninstall must not fail for a node that is broken.
    """
    agents = agents_of(api, namespace)
    request = Request(secrets.token_hex(4), LEAVE, evict)
    api.apply(config_map(namespace, REPORTS))
    if drain_s:
        yield from _drained(api, namespace, replace(request, phase=DRAIN, drain=drain_s), agents)
    api.apply(request.document(namespace))
    if evict:
        yield from _evicted(api, agents)
    said = _await(api, namespace, request, agents, LEFT, within_s)
    _refuse(api, namespace, said)
    for node in sorted(said):
        yield f"node {node} left: {said[node].text}"
    away = [Away(node, image) for node, image in sorted(agents.items()) if node not in said]
    yield from map(str, away)
    yield from _others_gone(api, namespace, within_s)
    request = Request(request.id, WIPE, evict)
    api.apply(request.document(namespace))
    wiped = _await(api, namespace, request, {n: agents[n] for n in said}, WIPED, within_s)
    yield f"folders of {len(wiped)} nodes are empty"
    if failed := [f"node {node}: {one.text}" for node, one in wiped.items() if one.state == FAILED]:
        raise InstallError("\n".join(failed))
    for name in _MADE:
        if _deleted(api, f"/api/v1/namespaces/{namespace}/{name}"):
            yield f"{name} deleted"


def _drained(
    api: Api, namespace: str, request: Request, agents: Mapping[str, str]
) -> Iterator[str]:
    """Wait until connections have ended on all nodes; one that does not answer stops nobody."""
    api.apply(request.document(namespace))
    said = _await(api, namespace, request, agents, DRAINED, request.drain + _ANSWER_S)
    _refuse(api, namespace, said)
    for node in sorted(agents):
        yield f"node {node} drained: {said[node].text}" if node in said else f"node {node}: no word"


def _refuse(api: Api, namespace: str, said: Mapping[str, Report]) -> None:
    """Take the request back when a node refuses, so that nothing has changed."""
    refused = {node: one for node, one in said.items() if one.state in (REFUSED, FAILED)}
    if refused:
        api.delete(path_of(config_map(namespace, REQUEST)))
        raise InstallError("\n".join(f"node {node}: {one.text}" for node, one in refused.items()))


def delete_chart(
    api: Api, rendered: Rendered, namespace: str, *, definitions: bool
) -> Iterator[str]:
    """Delete everything of the chart, last what was first. Raises ApiError.

    ``definitions``: those of our kinds as well, and with them all objects of these kinds.
    """
    every: list[Object] = [*rendered.objects]
    requested = [config_map(namespace, name) for name in (REQUEST, REPORTS)]
    for one in [*reversed(every), *requested, *(rendered.definitions if definitions else ())]:
        if _deleted(api, path_of(one)):
            yield f"{name_of(one)} deleted"


def refuse_helm(api: Api, namespace: str) -> None:
    """Raise InstallError when Helm has installed it: Helm would go on listing the release."""
    found = api.find(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/meshgate-agent")
    labels = found["metadata"].get("labels", {}) if found else {}
    if labels.get("app.kubernetes.io/managed-by") == "Helm":
        release = labels.get("app.kubernetes.io/instance", "meshgate")
        text = f"Helm has installed this: run `helm uninstall {release} -n {namespace}`"
        raise InstallError(text)


def agents_of(api: Api, namespace: str) -> dict[str, str]:
    """The image of the agent on each node that has one. Raises ApiError."""
    return {
        pod["spec"]["nodeName"]: pod["spec"]["containers"][0]["image"]
        for pod in _pods(api, namespace, "agent")
        if pod["spec"].get("nodeName")
    }


def _pods(api: Api, namespace: str, component: str) -> Sequence[Any]:
    label = f"app.kubernetes.io/name=meshgate,app.kubernetes.io/component={component}"
    found: Sequence[Any] = api.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=label)[
        "items"
    ]
    return found


def _await(
    api: Api,
    namespace: str,
    request: Request,
    agents: Iterable[str],
    state: str,
    within_s: float,
) -> Mapping[str, Report]:
    """The last reports of these nodes, once all are there, one failed, or time is up."""
    path, end = path_of(config_map(namespace, REPORTS)), time.monotonic() + within_s
    wanted = set(agents)
    final = {state, REFUSED, FAILED}
    while True:
        said = reports_of(api.find(path))
        mine = {n: one for n, one in said.items() if n in wanted and one.id == request.id}
        done = {node: one for node, one in mine.items() if one.state in final}
        stopped = any(one.state != state for one in done.values())
        if len(done) == len(wanted) or stopped or time.monotonic() > end:
            return done
        time.sleep(_LOOK_S)


def _evicted(api: Api, agents: Iterable[str]) -> Iterator[str]:
    """Evict the pods of these nodes that have a network of their own; budgets are obeyed."""
    for node in sorted(agents):
        pods = api.get("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")["items"]
        for pod in pods:
            if not pod["spec"].get("hostNetwork"):
                yield _evict(api, pod["metadata"]["namespace"], pod["metadata"]["name"])


def _evict(api: Api, namespace: str, name: str) -> str:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    end = time.monotonic() + LEAVE_S
    while True:
        try:
            api.post(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)
        except ApiError as error:
            if error.status == 404:
                return f"pod {namespace}/{name} has gone"
            if error.status != 429 or time.monotonic() > end:  # a budget that may allow it later
                raise
            time.sleep(_LOOK_S)
        else:
            return f"pod {namespace}/{name} evicted"


def _others_gone(api: Api, namespace: str, within_s: float) -> Iterator[str]:
    for plural, name in _OTHERS:
        if _deleted(api, f"/apis/apps/v1/namespaces/{namespace}/{plural}/{name}"):
            yield f"{plural}/{name} deleted"
    end = time.monotonic() + within_s
    for component in ("controller", "feed", "speaker", "etcd"):
        while any(
            pod["status"].get("phase") == "Running" for pod in _pods(api, namespace, component)
        ):
            if time.monotonic() > end:
                raise InstallError(f"a pod of {component} does not end; see its node")
            time.sleep(_LOOK_S)


def _deleted(api: Api, path: str) -> bool:
    return api.delete(path)
