"""What runs around a process in its pod: ``meshgate run agent|speaker|feed --config FILE``.

It gets the certificate of its node before the process starts, and renews it at half of its life. It
is the first process of the container: it passes signals on, buries orphans, and ends with the
status of the process. An agent's also waits for the request to leave the node (``leaving.py``); a
process that has ended cannot do that itself, and one that runs would set everything anew.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from clustermesh.asking import RefusedError, ask, write_files
from clustermesh.certs import is_spent, new_key, validity_of
from mesh.host import drained
from mesh.install import leaving
from mesh.install.api import ACCOUNT, Api, ApiError
from mesh.install.leaving import (
    DRAIN,
    DRAINED,
    FAILED,
    LEAVE,
    LEFT,
    REFUSED,
    WAITING,
    WIPE,
    WIPED,
    Places,
    Report,
    Request,
)

log = logging.getLogger(__name__)

#: Where the chart mounts things.
CERTIFICATES, TOKEN = Path("/run/certificates"), Path("/run/issuer/token")
CA = Path("/etc/meshgate/etcd/ca.crt")
ISSUERS = "meshgate-controller"
#: Set by whoever makes nodes, so that no pod starts before the agent serves.
TAINT = "meshgate.io/agent-not-ready"
_AGAIN_S, _LOOK_S, _DRAIN_LOOK_S = 2.0, 60.0, 1.0
#: How long pods may take to go from a node after the request; then the report says which stay.
_EMPTY_S = 600.0


def main(role: str, config: Path, api: Api, *, untaint: bool = False) -> int:
    """Be the pod's first process; the status of the process. Raises ApiError.

    ``untaint``: an agent's node may have the taint ``TAINT``, which goes once the agent serves.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    namespace = (ACCOUNT / "namespace").read_text().strip()
    certificate = Certificate(api, namespace)
    certificate.await_first()
    threading.Thread(target=certificate.keep, daemon=True).start()
    run = Process([sys.executable, "-m", "mesh.cli", role, "--config", str(config)])
    if role != "agent":
        return run.to_its_end()
    node, places = os.environ["MESHGATE_NODE"], Places.of(yaml.safe_load(config.read_text()))
    if untaint:
        threading.Thread(target=keep_untainted, args=(api, node, places), daemon=True).start()
    undo = [sys.executable, "-m", "mesh.cli", "leave", "--config", str(config)]
    return Leaver(api, namespace, node, places, run, lambda: lines_of(undo)).live()


def lines_of(words: list[str]) -> list[str]:
    """What a command has printed. Raises OSError with its last complaint."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or ["no reason was given"])[-1])
    return done.stdout.splitlines()


def keep_untainted(api: Api, node: str, places: Places) -> None:
    """Take the taint off the node as soon as pods may start there; for ever, by a look a minute.

    A Node object that is made anew has the taint again.
    """
    while True:
        pause = _LOOK_S
        try:
            if not serves(places):
                pause = _AGAIN_S
            elif take_taint(api, node):
                log.info("event=untainted node=%s", node)
        except ApiError as error:
            log.warning("event=tainted node=%s error=%s", node, error)
            pause = _AGAIN_S
        time.sleep(pause)


def serves(places: Places) -> bool:
    """Whether the runtime finds our list, which the agent writes when it can first serve ADD."""
    return any((places.conf / name).exists() for name in leaving.LISTS)


def take_taint(api: Api, node: str) -> bool:
    """Whether the node had the taint, which is gone now. Raises ApiError.

    The patch names the version that was read: a taint that somebody else adds meanwhile stays, and
    the next look tries again.
    """
    listed = api.get("/api/v1/nodes", fieldSelector=f"metadata.name={node}")["items"]
    for found in listed:
        taints = found["spec"].get("taints") or []
        kept = [one for one in taints if one["key"] != TAINT]
        if kept != taints:
            seen = {"resourceVersion": found["metadata"]["resourceVersion"]}
            document = {"metadata": seen, "spec": {"taints": kept or None}}
            api.merge(f"/api/v1/nodes/{node}", document)
            return True
    return False


class Certificate:
    """The files in ``CERTIFICATES``."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    def await_first(self) -> None:
        """Ask until there is a certificate."""
        told = ""
        while not self._is_good():
            try:
                self.renew()
            except (ApiError, RefusedError, OSError) as error:
                if str(error) != told:
                    log.warning("event=no_certificate error=%s", error)
                told = str(error)
                time.sleep(_AGAIN_S)

    def keep(self) -> None:
        """Renew for ever. What fails is tried again; the process says when its certificate ends."""
        while True:
            time.sleep(_LOOK_S)
            try:
                if not self._is_good():
                    self.renew()
            except (ApiError, RefusedError, OSError) as error:
                log.warning("event=not_renewed error=%s", error)

    def renew(self) -> None:
        """New files. Raises ApiError, RefusedError, OSError: what the last issuer has said."""
        private, public = new_key()
        failed: Exception = OSError("no controller runs that could issue a certificate")
        for address in issuers(self._api, self._namespace):
            try:
                cert = ask(address, CA.read_bytes(), TOKEN.read_text().strip(), public)
            except (RefusedError, OSError) as error:
                failed = error
                continue
            write_files(CERTIFICATES, private, cert)
            return
        raise failed

    def _is_good(self) -> bool:
        try:
            life = validity_of((CERTIFICATES / "tls.crt").read_bytes())
        except (OSError, ValueError):
            return False
        return not is_spent(life, datetime.now(UTC))


def issuers(api: Api, namespace: str) -> Iterator[str]:
    """``host:port`` of each issuer, by the slices of the controllers' service. Raises ApiError."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    listed = api.get(path, labelSelector=f"kubernetes.io/service-name={ISSUERS}")
    for one in listed["items"]:
        ports = [port["port"] for port in one.get("ports") or () if port.get("port")]
        for endpoint in one.get("endpoints") or ():
            for address in endpoint["addresses"]:
                host = f"[{address}]" if ":" in address else address
                yield from (f"{host}:{port}" for port in ports)


class Process:
    """The process itself, a child of this one."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._child: subprocess.Popen[bytes] | None = None
        self.asked_to_end = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())

    def end(self) -> None:
        """A signal has come: the pod goes."""
        self.asked_to_end = True
        self.stop()

    def stop(self) -> None:
        """Ask the child to end."""
        if self._child is not None and self._child.returncode is None:
            # Not by send_signal: it would wait for the child, and ``to_its_end`` does that.
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGTERM)

    def to_its_end(self) -> int:
        """Start it, and wait; orphans that have become children of the first process go, too."""
        if self.asked_to_end:
            return 0
        self._child = subprocess.Popen(self._words)
        if self.asked_to_end:  # the signal came before there was anybody to pass it on to
            self.stop()
        while True:
            pid, status = os.wait()
            if pid == self._child.pid:
                self._child.returncode = code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


class Leaver:
    """An agent that is there as long as nobody asks it to leave its node."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        node: str,
        places: Places,
        run: Process,
        undo: Callable[[], list[str]],
        wired: Callable[[], list[str]] = leaving.wired,
    ) -> None:
        self._api, self._namespace, self._node = api, namespace, node
        self._places, self._run = places, run
        self._undo, self._wired = undo, wired
        self._request: Request | None = None
        self._changed = threading.Condition()
        self._known = threading.Event()

    def live(self) -> int:
        """Run the agent, and leave the node when that is asked; the agent's status."""
        threading.Thread(target=self._listen, daemon=True).start()
        # A container that starts again after it has left must not set everything anew. Without an
        # answer the agent starts: the datapath matters more.
        self._known.wait(10)
        while True:
            if not self._may_leave():
                status = self._run.to_its_end()
                if self._run.asked_to_end or not self._may_leave():
                    return status
            self._leave()
            if self._run.asked_to_end:
                return 0

    def _listen(self) -> None:
        for request in leaving.requests(self._api, self._namespace):
            with self._changed:
                self._request = request
                self._changed.notify_all()
            self._known.set()
            self._begin_drain(request)
            if self._may_leave():
                self._run.stop()

    def _begin_drain(self, request: Request | None) -> None:
        """Let the agent drain when that is asked; without any request it goes on as before."""
        try:
            if request is None:
                drained.ask(self._places.agent, None)
            elif request.phase == DRAIN and not self._places.beside:
                text = "nothing to drain: pods go with their connections (--evict)"
                self._tell(Report(request.id, DRAINED, text))
            elif request.phase == DRAIN:
                until = time.time() + request.drain
                drained.ask(self._places.agent, drained.Drain(request.id, until))
                threading.Thread(target=self._drain, args=(request,), daemon=True).start()
        except OSError as error:
            log.warning("event=not_drained error=%s", error)

    def _drain(self, request: Request) -> None:
        """Tell how far the agent is, until it is done or another thing is asked."""
        told = -1
        while self._request == request:
            said = drained.answered(self._places.agent)
            if said and said.id == request.id and said.done:
                ends = f"{said.left} connections were reset" if said.left else "no connection left"
                self._tell(Report(request.id, DRAINED, ends))
                return
            if said and said.id == request.id and said.left != told:
                told = said.left
                self._tell(Report(request.id, WAITING, f"{told} connections are translated"))
            time.sleep(_DRAIN_LOOK_S)

    def _may_leave(self) -> bool:
        """Whether a request stands that this node obeys; one that it refuses is told."""
        request = self._request
        if request is None or request.phase == DRAIN:
            return False
        devices = self._wired()
        if devices and request.phase == LEAVE and not request.evict and not self._has_left:
            text = f"{len(devices)} pods have links of Meshgate; --evict ends them first"
            self._tell(Report(request.id, REFUSED, text))
            return False
        return True

    @property
    def _has_left(self) -> bool:
        return not self._places.bpffs.exists()

    def _leave(self) -> None:
        """Do what is asked until the request goes away, or the pod does."""
        done: Request | None = None
        while (request := self._request) and not self._run.asked_to_end:
            if request != done:
                self._tell(self._act(request))
                done = request
            with self._changed:
                self._changed.wait(1.0)

    def _act(self, request: Request) -> Report:
        try:
            if request.phase == LEAVE:
                self._await_pods(request)
                lines, state = self._undo(), LEFT
            elif request.phase == WIPE:
                lines, state = list(leaving.wipe(self._places)), WIPED
            else:
                return Report(request.id, FAILED, f"phase {request.phase} is unknown here")
        except OSError as error:
            return Report(request.id, FAILED, leaving.in_a_sentence(error))
        for line in lines:
            log.info("event=%s what=%s", state, line)
        return Report(request.id, state, f"{len(lines)} things undone")

    def _await_pods(self, request: Request) -> None:
        """Pods that are evicted go with their links."""
        leaving.give_way(self._places)
        end, told = time.monotonic() + _EMPTY_S, 0
        while devices := self._wired():
            if time.monotonic() > end:
                raise OSError(f"{len(devices)} pods still have links of Meshgate")
            if len(devices) != told:
                told = len(devices)
                self._tell(Report(request.id, WAITING, f"{told} pods have links of Meshgate"))
            time.sleep(_AGAIN_S)

    def _tell(self, said: Report) -> None:
        log.info("event=report state=%s text=%s", said.state, said.text)
        leaving.report(self._api, self._namespace, self._node, said)
