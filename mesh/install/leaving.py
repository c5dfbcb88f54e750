"""Off a node: the request that stands in a ConfigMap, what an agent does then, and its report.

``meshgate-uninstall`` is the request: ``id``, ``phase``, ``evict`` and ``drain``.
``meshgate-uninstalled`` has a report of each node. Phase ``drain``: the agent translates no new
connection, and lets those that are there go on for ``drain`` seconds; what is left is reset.
Phase ``leave``: the agent ends and undoes what it has set on its host. Phase ``wipe``: no process
uses the folders of the host any more, so they are emptied. A request that goes away ends
everything: the agent starts anew.

The command line of a node that was away does the same by hand: ``meshgate leave``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.cni.conflist import BESIDE, ENDINGS, PLUGIN, WHOLE
from mesh.core.files import in_words
from mesh.install.api import Api, ApiError

REQUEST, REPORTS = "meshgate-uninstall", "meshgate-uninstalled"
DRAIN, LEAVE, WIPE = "drain", "leave", "wipe"
#: States of a report.
REFUSED, WAITING, FAILED = "refused", "waiting", "failed"
DRAINED, LEFT, WIPED = "drained", "left", "wiped"
LISTS = (BESIDE, WHOLE)
#: Of the folders of a host; nothing else in them is touched.
STATE = ("agent", "controller", "speaker", "feed", "etcd")
SOCKETS = ("agent.sock", "speaker.sock", "cni.sock", "controller", "feed")
#: As in ``mesh/pods/links.py``; this file is loaded on each node for good, and stays small.
DEVICE_PREFIX = "mgp"
_AGAIN_S = 5.0
#: Environment: the pipe of the container that removes folders of other users.
_SWEEP = "MESHGATE_SWEEP"
_SWEPT_S = 20.0
#: Devices by name, where a mounted /sys would show another network namespace.
_DEVICES = Path("/proc/sys/net/ipv4/conf")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of all agents; ``id`` is another one for each uninstall."""

    id: str
    phase: str
    evict: bool = False
    drain: int = 0
    """Seconds for which connections may go on, in phase ``drain``."""

    def document(self, namespace: str) -> dict[str, Any]:
        """The ConfigMap."""
        evict = "true" if self.evict else "false"
        return {
            **config_map(namespace, REQUEST),
            "data": {
                "id": self.id,
                "phase": self.phase,
                "evict": evict,
                "drain": str(self.drain),
            },
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of a request."""

    id: str
    state: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Where an agent leaves something on its host."""

    socket: Path
    bpffs: Path
    state: Path
    conf: Path = Path("/etc/cni/net.d")
    plugins: Path = Path("/opt/cni/bin")
    beside: bool = False

    @property
    def agent(self) -> Path:
        """The agent's own folder."""
        return self.state / "agent"

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Places:
        """Those in an agent's configuration file, as the chart has it.

        The words of the file: to read it strictly takes 40 MB, on each node and for good. Raises
        ValueError.
        """
        missing = [name for name in ("socket", "bpffs", "stateDir") if name not in document]
        if missing:
            raise ValueError(f"{missing[0]}: required")
        plugin = document.get("cni") or {}
        return cls(
            Path(document["socket"]),
            Path(document["bpffs"]),
            Path(document["stateDir"]).parent,
            Path(plugin.get("confDir", "/etc/cni/net.d")),
            Path(plugin.get("binDir", "/opt/cni/bin")),
            document.get("mode") == "beside",
        )

    @classmethod
    def below(cls, root: Path) -> Places:
        """Those of the chart's default values, as seen where the host's root is ``root``."""
        return cls(
            root / "run/meshgate/agent.sock",
            root / "sys/fs/bpf/meshgate",
            root / "var/lib/meshgate",
            root / "etc/cni/net.d",
            root / "opt/cni/bin",
        )


def config_map(namespace: str, name: str) -> dict[str, Any]:
    """An empty ConfigMap."""
    labels = {"app.kubernetes.io/name": "meshgate"}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def request_of(found: Any) -> Request | None:
    """The request in a ConfigMap; one of a later version asks for the phase that it names."""
    data = (found or {}).get("data") or {}
    if "id" not in data or "phase" not in data:
        return None
    drain = str(data.get("drain", ""))
    seconds = int(drain) if drain.isdecimal() else 0
    return Request(data["id"], data["phase"], data.get("evict") == "true", seconds)


def requests(api: Api, namespace: str) -> Iterator[Request | None]:
    """The request as it is, and again after each change, for ever; None: there is none."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    query = {"fieldSelector": f"metadata.name={REQUEST}"}
    while True:
        with suppress(ApiError):
            listed = api.get(path, **query)
            yield next(map(request_of, listed["items"]), None)
            version = listed["metadata"]["resourceVersion"]
            for kind, found in api.watch(path, resourceVersion=version, **query):
                if kind != "BOOKMARK":
                    yield None if kind == "DELETED" else request_of(found)
            continue
        time.sleep(_AGAIN_S)  # an API server that is away asks for nothing


def report(api: Api, namespace: str, node: str, said: Report) -> None:
    """Say it; tried until it is heard, or for ten minutes."""
    path = f"/api/v1/namespaces/{namespace}/configmaps/{REPORTS}"
    text = json.dumps({"id": said.id, "state": said.state, "text": said.text})
    for _ in range(int(600 / _AGAIN_S)):
        with suppress(ApiError):
            api.merge(path, {"data": {node: text}})
            return
        time.sleep(_AGAIN_S)


def reports_of(found: Any) -> dict[str, Report]:
    """The reports by node."""
    said: dict[str, Report] = {}
    for node, text in ((found or {}).get("data") or {}).items():
        with suppress(ValueError, TypeError):
            said[node] = Report(**json.loads(text))
    return said


def wired() -> list[str]:
    """The devices of pods that have links of ours."""
    return sorted(one.name for one in _DEVICES.iterdir() if one.name.startswith(DEVICE_PREFIX))


def give_way(places: Places) -> None:
    """Take our list away where the runtime then finds another CNI's, so that new pods get that one.

    Without any list the runtime cannot end a pod: it needs one to delete the pod's network, and our
    plugin does that without an agent. No new pod starts by our list, since no agent answers.
    """
    ours = [places.conf / name for name in LISTS]
    lists = (path for path in places.conf.glob("*") if path.suffix in ENDINGS)
    if any(path not in ours for path in lists):
        for path in ours:
            path.unlink(missing_ok=True)


def leave(places: Places) -> Iterator[str]:
    """Undo what an agent has set on its host; a line for each thing. The agent has ended.

    The list goes before the links, so that the runtime asks another CNI; the plugin last, so that
    pods of ours that end meanwhile still find it. Raises OSError when something is left.
    """
    from mesh.agent import restore_host  # noqa: PLC0415 - 60 MB that only a node that goes needs

    for name in LISTS:
        if (places.conf / name).exists():
            (places.conf / name).unlink()
            yield f"{places.conf / name} removed"
    yield from restore_host(places.socket, places.bpffs, places.agent)
    if (places.plugins / PLUGIN).exists():
        (places.plugins / PLUGIN).unlink()
        yield f"{places.plugins / PLUGIN} removed"


def wipe(places: Places) -> Iterator[str]:
    """Remove files of state and sockets; no process of ours runs on this host. Raises OSError."""
    for folder, names in ((places.state, STATE), (places.socket.parent, SOCKETS)):
        for name in names:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            elif path.exists() or path.is_symlink():
                path.unlink()
            else:
                continue
            yield f"{path} removed"


def _remove_folder(path: Path) -> None:
    """Remove it, by the container beside the agent's where it belongs to another user of ours."""
    try:
        shutil.rmtree(path)
    except PermissionError:
        if not _swept(path):
            raise


def _swept(path: Path) -> bool:
    """Whether ``meshgate-sweep`` is there, and has removed the folder."""
    try:
        pipe = os.open(os.environ.get(_SWEEP, ""), os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(pipe, f"{path}\n".encode())
    finally:
        os.close(pipe)
    end = time.monotonic() + _SWEPT_S
    while path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return not path.exists()


def by_hand(root: Path) -> Iterator[str]:
    """Both, on a host whose agent could not be asked. Raises OSError."""
    places = Places.below(root)
    yield from leave(places)
    yield from wipe(places)


def in_a_sentence(error: OSError) -> str:
    """An error with its file."""
    return f"{error.filename}: {in_words(error)}" if error.filename else in_words(error)
