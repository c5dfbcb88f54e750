"""A lab that is up, driven by the commands that users type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.patience import patient, wait

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "mesh/lab/probe.py"
ECHO = ROOT / "mesh/lab/legacy.py"
ECHO_PORT = 9000
#: The kill tests in full length (``make soak``); otherwise shortened.
SOAK = bool(os.environ.get("MESHGATE_SOAK"))
#: Life of what a controller has published. Short, so that three of them fit into a test, but longer
#: than a controller stays dead in the kill tests; beside other lanes one starts slowly.
LEASE_S = 30 if SOAK or patient(1) > 1 else 15


@dataclass(frozen=True)
class Lab:
    """One lab; ``environment`` names it."""

    environment: dict[str, str]

    def run(self, *arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """``meshgate ARGUMENTS…``; the caller looks at status and output."""
        return subprocess.run(
            self._command(arguments),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=180,
        )

    def json(self, *arguments: object) -> Any:
        """What ``meshgate ARGUMENTS… -o json`` prints."""
        answer = self.run(*arguments, "-o", "json")
        assert answer.stdout, f"meshgate {arguments}: {answer.stderr}"
        return json.loads(answer.stdout)

    def exec(self, host: str, *command: object) -> subprocess.CompletedProcess[str]:
        """A command on a host or in a pod."""
        return self.run("lab", "exec", host, *command)

    def output(self, host: str, *command: object) -> str:
        """What a command prints that must succeed."""
        answer = self.exec(host, *command)
        assert answer.returncode == 0, f"{host}: {command}: {answer.stdout}{answer.stderr}"
        return answer.stdout

    def python(self, host: str, code: str, *arguments: object) -> str:
        """What a Python text prints there."""
        return self.output(host, sys.executable, "-c", code, *arguments)

    def start(self, host: str, *command: object) -> subprocess.Popen[str]:
        """A command that goes on in the background."""
        return subprocess.Popen(
            self._command(("lab", "exec", host, *command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",  # some values in etcd are no text
            env=self.environment,
        )

    def start_talking(self, host: str, *command: object) -> subprocess.Popen[str]:
        """``start`` for a command that reads its standard input."""
        return subprocess.Popen(
            self._command(("lab", "exec", host, *command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "mesh.cli", *map(str, arguments)]

    @cached_property
    def shown(self) -> dict[str, Any]:
        """``lab show``."""
        shown: dict[str, Any] = self.json("lab", "show")
        return shown

    def processes(self) -> dict[str, int]:
        """Process ids by ``host/role``."""
        return {f"{row['host']}/{row['role']}": row["pid"] for row in self.json("lab", "ps")}

    def kill(self, *names: str) -> None:
        """``kill -9`` of ``host/role``, and wait until ``lab ps`` no longer shows that process."""
        pids = self.processes()
        for name in names:
            os.kill(pids[name], signal.SIGKILL)
        gone = {name: pids[name] for name in names}
        wait(lambda: not gone.items() & self.processes().items(), 5, f"{', '.join(names)} ended")

    def revive(self, *names: str) -> None:
        """``lab start`` of each."""
        for name in names:
            answer = self.run("lab", "start", name)
            assert answer.returncode == 0, answer.stderr

    def pod(self, name: str) -> dict[str, Any]:
        """The row of ``cluster/namespace/name``."""
        for row in self.json("pod", "list"):
            if f"{row['cluster']}/{row['namespace']}/{row['name']}" == name:
                return dict(row)
        raise AssertionError(f"{name} is not in `meshgate pod list`")

    def healthy(self) -> bool:
        """Whether ``meshgate status`` says so."""
        return self.run("status").returncode == 0

    @contextmanager
    def one_gateway(self, node: str) -> Iterator[None]:
        """Of the nodes of its cluster only this one is a gateway."""
        cluster = node.partition("-")[0]
        path = Path(self.shown["manifests"][cluster]) / "nodes.yaml"
        before = path.read_text()

        def gateways() -> list[str]:
            row = next(row for row in self.table("egress") if row["cluster"] == cluster)
            return [one["node"] for one in row["gateways"]]

        there = gateways()
        documents = before.split("---\n")
        kept = [one if f"name: {node}\n" in one else one.replace("role: gateway", "role: other")
                for one in documents]  # fmt: skip
        path.write_text("---\n".join(kept))
        try:
            wait(lambda: gateways() == [node], 10, f"{node} is the only gateway")
            yield
        finally:
            path.write_text(before)
            wait(lambda: gateways() == there, 10, "the others are gateways again")

    def settle(self) -> None:
        """Wait until it is healthy.

        Findings of drops that a test before has made end by themselves, after a minute with fewer
        drops (``mesh/health/history.py``).
        """
        wait(self.healthy, 90, lambda: f"healthy before: {self.run('status').stdout}")

    @contextmanager
    def echo_in(self, *pods: str) -> Iterator[None]:
        """An echo server on ``ECHO_PORT`` in each pod.

        The server writes a line for each connection. An unread pipe would fill and stop it.
        """
        quiet = ("sh", "-c", 'exec "$@" > /dev/null', "sh")
        command = (*quiet, sys.executable, ECHO, ECHO_PORT, ECHO_PORT)
        servers = [self.start(pod, *command) for pod in pods]
        try:
            for pod in pods:
                self._wait_listening(pod)
            yield
        finally:
            for server in servers:
                server.terminate()
                server.wait(10)

    def _wait_listening(self, pod: str) -> None:
        wait(lambda: str(ECHO_PORT) in self.output(pod, "ss", "-ltn"), 5, f"{pod} listens")

    def probe(self, pod: str, mode: str, address: str, port: int, seconds: float,
              *options: object) -> subprocess.Popen[str]:  # fmt: skip
        """A transfer from a pod, in the background; read it with ``report``."""
        return self.start(
            pod, sys.executable, PROBE, mode, address, port, "--seconds", seconds, *options
        )

    def table(self, noun: str) -> list[dict[str, Any]]:
        """``meshgate NOUN list``."""
        rows: list[dict[str, Any]] = self.json(noun, "list")
        return rows

    def refused(self) -> int:
        """Packets that the firewall has refused."""
        text = self.output(
            "firewall", "nft", "-j", "list", "counter", "inet", "firewall", "refused"
        )
        packets: int = json.loads(text)["nftables"][1]["counter"]["packets"]
        return packets

    def legacy_log(self) -> list[list[str]]:
        """[time, protocol, source address, source port] of what the legacy server saw."""
        lines = Path(self.shown["legacy"]["log"]).read_text().splitlines()
        return [line.split() for line in lines if not line.startswith("#")]

    def etcdctl(self, user: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """``etcdctl`` as a certificate user."""
        return self.exec("etcd", *self.etcdctl_command(user), *arguments)

    def etcdctl_command(self, user: str) -> list[str]:
        """The beginning of an etcdctl command line."""
        etcd, files = self.shown["etcd"], self.shown["etcd"]["users"][user]
        return [
            *("etcdctl", "--endpoints", etcd["endpoint"], "--cacert", etcd["ca"]),
            *("--cert", files["cert"], "--key", files["key"]),
        ]


def report(transfer: subprocess.Popen[str]) -> dict[str, Any]:
    """The report of a finished ``probe``."""
    text, _ = transfer.communicate(timeout=120)
    try:
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        raise AssertionError(f"the probe said: {text}") from None
    return found


def egress(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """A command about east's egress, on a host of the lab: only from there etcd is reached."""
    config = Path(lab.environment["MESHGATE_RUN"]) / "east-1/controller.yaml"
    words = ("egress", *words, "--yes", "--config", str(config))
    return lab.exec("east-1", sys.executable, "-m", "mesh.cli", *words)


def evict(lab: Lab, address: str) -> subprocess.CompletedProcess[str]:
    return egress(lab, "evict", address)


def stored(lab: Lab, prefix: str) -> dict[str, bytes]:
    """The values of etcd by key; many are no text."""
    found = json.loads(lab.etcdctl("root", "get", "-w", "json", "--prefix", prefix).stdout)
    return {b64decode(kv["key"]).decode(): b64decode(kv["value"]) for kv in found["kvs"]}


def url(address: str, port: int = 8080) -> str:
    """An http URL for an address of either family."""
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
