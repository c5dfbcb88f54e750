"""Hubble's relay and command line on the agents of a lab: ``make hubble`` (Go, root).

``python -m tests.tools.cilium.relay`` builds both (a Go toolchain, once) and brings a lab up whose
agents listen for a relay. The relay is told of one agent and has to find all by ``peer.Peer``. Then
pods connect, by address and by service, and each node's flow of each connection has to be in what
the command line prints exactly once: when it asks for the past, and when it follows.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mesh.lab.settings import HUBBLE_PORT, RELAY, RELAY_CLIENT, RELAY_NAME
from tests.lab.running import ROOT, Lab, wait
from tests.tools.cilium.programs import HUBBLE, binary
from tests.tools.cilium.programs import RELAY as RELAY_PROGRAM

PORT = 4245
#: Where the relay runs, and connections of each kind.
HOST, CONNECTIONS = "etcd", 20
#: Connects so often from ports from the third argument on.
CONNECT = """
import socket, sys
address, port, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for source in range(first, first + count):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
        one.settimeout(5)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", source))
        one.connect((address, port))
"""


class Observers:
    """The relay and the command line in a lab."""

    def __init__(self, lab: Lab, log: Path) -> None:
        self.lab, self.log = lab, log
        self._pki = Path(lab.environment["MESHGATE_RUN"]) / "pki"

    @contextmanager
    def relay(self) -> Iterator[None]:
        """The relay, which knows one agent."""
        files = [f"{name}.{end}" for name in (RELAY, RELAY_CLIENT) for end in ("crt", "key")]
        crt, key, client_crt, client_key, ca = (
            str(self._pki / name) for name in (*files, "ca.crt")
        )
        command = [
            *(binary(RELAY_PROGRAM), "serve", "--cluster-name", "east", "--gops=false"),
            *("--listen-address", f":{PORT}", "--peer-service", f"10.99.0.11:{HUBBLE_PORT}"),
            *(
                "--tls-hubble-client-cert-file",
                client_crt,
                "--tls-hubble-client-key-file",
                client_key,
            ),
            *("--tls-hubble-server-ca-files", ca, "--tls-relay-client-ca-files", ca),
            *("--tls-relay-server-cert-file", crt, "--tls-relay-server-key-file", key),
        ]
        with self._running(list(map(str, command)), self.log):
            yield

    def following(self, said: Path) -> AbstractContextManager[None]:
        """The command line as it follows, and prints into a file."""
        return self._running(self.command("observe", "--follow", "-o", "jsonpb"), said)

    @contextmanager
    def _running(self, command: list[str], said: Path) -> Iterator[None]:
        with said.open("wb") as out:
            running = subprocess.Popen(
                [sys.executable, "-m", "mesh.cli", "lab", "exec", HOST, *command],
                stdout=out, stderr=out, env=self.lab.environment,
            )  # fmt: skip
        try:
            yield
        finally:
            running.terminate()
            running.wait(20)

    def command(self, *arguments: object) -> list[str]:
        """A command line of Hubble's."""
        tls = [
            *("--tls", "--tls-server-name", RELAY_NAME),
            *("--tls-ca-cert-files", str(self._pki / "ca.crt")),
            *("--tls-client-cert-file", str(self._pki / f"{RELAY_CLIENT}.crt")),
            *("--tls-client-key-file", str(self._pki / f"{RELAY_CLIENT}.key")),
        ]
        words = map(str, arguments)
        return [str(binary(HUBBLE)), *words, "--server", f"localhost:{PORT}", *tls]

    def ask(self, *arguments: object) -> list[Any]:
        """What it prints, a document a line."""
        said = self.lab.exec(HOST, *self.command(*arguments)).stdout
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def nodes(self) -> dict[str, str]:
        """State of each node that the relay knows."""
        answer = self.lab.exec(HOST, *self.command("list", "nodes", "-o", "json")).stdout
        listed = json.loads(answer or "[]")
        return {row["name"]: row.get("state", "") for row in listed}


def flows(lines: list[Any]) -> Iterator[tuple[str, str, int, str]]:
    """Node, uuid, source port and service of each new connection of a client."""
    for line in lines:
        flow = line.get("flow", {})
        port = flow.get("l4", {}).get("TCP", {}).get("source_port", 0)
        service = flow.get("destination_service", {})
        name = f"{service['namespace']}/{service['name']}" if service else ""
        if FIRST <= port < FIRST + len(TARGETS) * CONNECTIONS:
            yield flow["node_name"], flow["uuid"], port, name


FIRST = 23000
#: Ports of connections that show whether the command line follows.
BEFORE = itertools.count(22000)
#: From client-1 of east: web-1 of west and the service, in both families.
TARGETS = ("west/shop/web-1 4", "west/shop/web-1 6", "service 4", "service 6")


def connect(lab: Lab, target: str, first: int, count: int) -> None:
    """Connections from ports of their own: to a pod, or to the service of east."""
    what, family = target.split()
    (service,) = (row for row in lab.table("service") if row["cluster"] == "east")
    row, port = (service, 80) if what == "service" else (lab.pod(what), 8080)
    address = next(a for a in row["addresses"] if (":" in a) == (family == "6"))
    lab.python("east/shop/client-1", CONNECT, address, port, first, count)


def documents(said: Path) -> list[Any]:
    """What a file has, a document a line; the last one may be half written."""
    *lines, _ = said.read_text().split("\n")
    return [json.loads(line) for line in lines if line.startswith("{")]


def complaints(seen: list[tuple[str, str, int, str]]) -> Iterator[str]:
    """What is missing or there twice, of the flows of all connections."""
    for port in range(FIRST, FIRST + len(TARGETS) * CONNECTIONS):
        nodes = Counter(node for node, _, source, _ in seen if source == port)
        if nodes["east/east-1"] != 1 or set(nodes.values()) != {1}:
            yield f"port {port}: {dict(nodes)}"
        named = {name for node, _, source, name in seen if (node, source) == ("east/east-1", port)}
        asked = {"shop/web"} if port >= FIRST + 2 * CONNECTIONS else {""}
        if named != asked:
            yield f"port {port}: the service is {named}, not {asked}"
    twice = [uuid for uuid, count in Counter(one[1] for one in seen).items() if count > 1]
    yield from (f"flow {uuid} twice" for uuid in twice)


def walk(one: Observers) -> int:
    """The steps; the number of what is wrong."""
    wanted = {f"{row['cluster']}/{row['name']}" for row in one.lab.table("node")}
    wait(lambda: one.nodes() == dict.fromkeys(wanted, "NODE_CONNECTED"), 60, f"{wanted} found")
    print(f"the relay has found {', '.join(sorted(wanted))}")
    said = one.log.with_name("followed")
    with one.following(said):

        def follows() -> bool:
            connect(one.lab, "west/shop/web-1 4", next(BEFORE), 1)
            return '"flow"' in said.read_text()

        wait(follows, 30, "the command line follows")
        for at, target in enumerate(TARGETS):
            connect(one.lab, target, FIRST + at * CONNECTIONS, CONNECTIONS)
        past = list(flows(one.ask("observe", "--last", 2000, "-o", "jsonpb")))
        wait(lambda: len(list(flows(documents(said)))) >= len(past), 20, "all flows are followed")
    wrong = [f"past: {text}" for text in complaints(past)]
    live = list(flows(documents(said)))
    wrong += [f"followed: {text}" for text in complaints(live)]
    print(*wrong, sep="\n")
    print(f"flows of the past {len(past)}, followed {len(live)}, wrong {len(wrong)}")
    return len(wrong)


def main() -> int:
    """Everything; 1 when something is wrong."""
    for name in (HUBBLE, RELAY_PROGRAM):
        binary(name)
    with tempfile.TemporaryDirectory() as folder:
        shape = Path(folder) / "topology.yaml"
        shape.write_text((ROOT / "mesh/lab/topology.yaml").read_text() + "\nhubble: true\n")
        name = f"h{os.getpid() % 10_000_000}"
        run = f"/run/meshgate-{name}"
        names = {"MESHGATE_LAB": name, "MESHGATE_RUN": run, "PYTHONPATH": str(ROOT)}
        lab = Lab({**os.environ, **names})
        one = Observers(lab, Path(folder) / "relay.log")
        try:
            answer = lab.run("lab", "up", "--file", shape)
            if answer.returncode:
                print(answer.stdout, answer.stderr)
                return 1
            with one.relay():
                return 1 if walk(one) else 0
        except AssertionError:
            print(one.log.read_text()[-4000:])
            raise
        finally:
            lab.run("lab", "down", "--force")


if __name__ == "__main__":
    sys.exit(main())
