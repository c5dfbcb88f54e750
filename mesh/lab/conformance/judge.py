"""An independent judge: coturn's ``turnutils_natdiscovery`` in a pod, against coturn's server.

RFC 5780 asks a server on two addresses and two ports which place it sees. The packages are unpacked
into a folder and not installed: no service starts, no user is made.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.lab.conformance.bed import EGRESS, HOST_MAC, POD, SERVER, Namespaces, nodad, run, text
from mesh.lab.conformance.meshgate import GATE, Meshgate
from mesh.lab.places import LabError

#: Debian 12's coturn and what it is linked with, 1.1 MB.
PACKAGES = (
    "coturn", "libhiredis0.14", "libmariadb3", "libpq5", "libevent-core-2.1-7",
    "libevent-extra-2.1-7", "libevent-openssl-2.1-7", "libevent-pthreads-2.1-7",
)  # fmt: skip
FOLDER = Path.home() / ".cache" / "meshgate" / "coturn"
PORT, OTHER_PORT = 3478, 3479
VIA = {4: "169.254.1.1", 6: "fe80::1"}
STARTS_WITHIN_S = 10.0


def fetched(folder: Path) -> Path:
    """The folder with coturn in it, asked of Debian when it is not there yet. Raises LabError."""
    root = folder / "root"
    if not (root / "usr/bin/turnutils_natdiscovery").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["apt-get", "download", *PACKAGES],
            cwd=folder, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise LabError(f"coturn cannot be fetched: {done.stderr.strip()}")
        for package in folder.glob("*.deb"):
            run("dpkg", "-x", str(package), str(root))
    return root


def with_stacks(bed: Meshgate) -> Judge:
    """The judge in a bed, whose pod and server get stacks: until now they were raw sockets."""
    pod, server = bed.places["pod"], bed.places["server"]
    gateways = {4: str(GATE), 6: "fd99::12"}
    for place in (pod, server):
        Namespaces.set(place, "net/ipv6/conf/eth0/disable_ipv6", "0")
    for family in (4, 6):
        ip = ("ip", f"-{family}", "-n")
        bits = 32 if family == 4 else 128
        run(*ip, pod.name, "address", "add", f"{POD[family]}/{bits}", "dev", "eth0", *nodad(family))
        via = ("via", VIA[family], "dev", "eth0", "onlink")
        run(*ip, pod.name, "route", "add", "default", *via)
        words = ("neigh", "replace", VIA[family], "lladdr", text(HOST_MAC), "dev", "eth0")
        run(*ip, pod.name, *words)
        for address in SERVER[family]:
            run(
                *ip,
                server.name,
                "address",
                "add",
                f"{address}/{bits}",
                "dev",
                "eth0",
                *nodad(family),
            )
        via = ("via", gateways[family], "dev", "eth0", "onlink")
        run(*ip, server.name, "route", "add", EGRESS[family], *via)
    return Judge(pod.name, server.name)


class Judge:
    """coturn in two network namespaces: a pod's, and that of a server with two addresses."""

    def __init__(self, pod: str, server: str, folder: Path | None = None) -> None:
        self._places = {"pod": pod, "server": server}
        self._root = fetched(folder or FOLDER)

    def _command(self, place: str, name: str, *words: str) -> list[str]:
        program = str(self._root / "usr/bin" / name)
        return ["ip", "netns", "exec", self._places[place], program, *words]

    @property
    def _environment(self) -> dict[str, str]:
        libraries = {str(one.parent) for one in self._root.rglob("*.so*")}
        return os.environ | {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}

    @contextmanager
    def server(self, family: int) -> Iterator[None]:
        """Coturn's server on both addresses of the legacy side."""
        listens = [word for address in SERVER[family] for word in ("-L", address)]
        ports = ("-p", str(PORT), "--alt-listening-port", str(OTHER_PORT))
        quiet = ("--no-tls", "--no-dtls", "--no-cli", "--stun-only", "-n", "-l", "stdout")
        process = subprocess.Popen(
            self._command("server", "turnserver", *listens, *ports, *quiet),
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._answers(process, family)
            yield
        finally:
            process.terminate()
            process.wait(STARTS_WITHIN_S)

    def _answers(self, process: subprocess.Popen[bytes], family: int) -> None:
        """Wait for its first answer. Raises LabError."""
        end = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < end and process.poll() is None:
            if "response 1" in self.asked(family, "-m"):
                return
        raise LabError(f"turnserver does not answer ({process.poll()})")

    def asked(self, family: int, *options: str) -> str:
        """What ``turnutils_natdiscovery`` prints with these options."""
        words = (*options, "-p", str(PORT), SERVER[family][0])
        done = subprocess.run(
            self._command("pod", "turnutils_natdiscovery", *words),
            env=self._environment, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def behaviour(self, family: int) -> tuple[str, str]:
        """Mapping and filtering, in the words of the judge."""
        return (
            _verdict(self.asked(family, "-m"), "Mapping"),
            _verdict(self.asked(family, "-f"), "Filtering"),
        )


def _verdict(said: str, what: str) -> str:
    """``Address Dependent`` of "NAT with Address Dependent Mapping!". Raises LabError."""
    for line in said.splitlines():
        if line.startswith("NAT with ") and line.endswith(f" {what}!"):
            return line.removeprefix("NAT with ").removesuffix(f" {what}!")
    raise LabError(f"natdiscovery says nothing of {what.lower()}: {said[-300:]}")
