"""What surrounds the nodes: the shared etcd, the router, the legacy server; their processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from clustermesh.etcd.auth import EtcdUser
from clustermesh.issued import ROOT, files_of
from mesh.core.files import replace_file
from mesh.lab import edge, enter, processes, settings
from mesh.lab.fabric import Fabric
from mesh.lab.places import OWN, Lab, LabError
from mesh.lab.processes import Process

ETCD_WITHIN_S = 10.0
FRR = Path("/usr/lib/frr")
_OF_DAEMON = {"bgpd": ("-p", "179")}


def start(lab: Lab, topology: Fabric, users: Sequence[EtcdUser]) -> None:
    """Start them all; afterwards etcd knows its users.

    Raises:
        LabError: a part does not come up.

    """
    _start_etcd(lab, topology)
    pki = str(settings.pki_directory(lab))
    spawn(lab, OWN, "renewing", (sys.executable, "-m", "mesh.lab.renewing", pki))
    server = settings.program("legacy.py", topology.legacy.tcp, topology.legacy.udp)
    spawn(lab, "legacy", "legacy", server)
    _start_routers(lab, topology)
    authorise_etcd(lab, topology, users)


def _start_etcd(lab: Lab, topology: Fabric) -> None:
    pki = settings.pki_directory(lab)
    clients = ",".join(
        settings.etcd_endpoint(topology, n) for n in range(len(topology.etcd.addresses))
    )
    peer = "http://127.0.0.1:2380"
    command = (
        *("etcd", "--name", "lab", "--data-dir", str(lab.host_run("etcd") / "data")),
        *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"lab={peer}", "--client-cert-auth"),
        *("--auto-compaction-retention", "1h"),  # counters write for ever (docs/etcd.md)
        *("--cert-file", str(pki / "server.crt"), "--key-file", str(pki / "server.key")),
        *("--trusted-ca-file", str(pki / "ca.crt"), "--client-crl-file", str(pki / "ca.crl")),
        # The gateway would call etcd with etcd's own certificate, which is good for a server only.
        *("--enable-grpc-gateway=false", "--logger", "zap", "--log-level", "warn"),
    )
    spawn(lab, "etcd", "etcd", command)


def authorise_etcd(lab: Lab, topology: Fabric, users: Sequence[EtcdUser]) -> None:
    """Wait for etcd, then make sure that its users exist and authentication is on."""
    pki = str(settings.pki_directory(lab))
    names = [f"{user.cluster}:{user.role}:{user.name}" for user in users]
    module = (sys.executable, "-m", "mesh.lab.bootstrap", settings.etcd_endpoint(topology), pki)
    command = enter.argv(lab.host("etcd"), [*module, *names])
    environment = processes.environment()
    end = time.monotonic() + ETCD_WITHIN_S
    while True:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        if answer.returncode == 0:
            return
        if time.monotonic() > end:
            raise LabError(f"etcd: {answer.stderr.strip().splitlines()[-1:]}")
        time.sleep(0.2)


def _start_routers(lab: Lab, topology: Fabric) -> None:
    _start_frr(lab, "router", settings.frr_configs(topology), lambda command: command)
    if (pe := topology.pe) is not None:
        edge.vrf_folder(lab).mkdir(exist_ok=True)
        wrap = partial(edge.with_vrfs, lab, pe)
        _start_frr(lab, "pe", settings.edge_configs(pe, topology), wrap)
        server = settings.program("legacy.py", pe.tcp, pe.udp)
        for tenant in pe.tenants:
            spawn(lab, tenant.name, "tenant", server)
        spawn(lab, "pe", "fake_pe", (sys.executable, "-m", "mesh.lab.fake_pe"))
    if topology.second is not None:
        _start_bird(lab, settings.bird_config(topology.second, topology))


def _start_frr(
    lab: Lab,
    host: str,
    configs: Mapping[str, str],
    wrap: Callable[[tuple[str, ...]], tuple[str, ...]],
) -> None:
    """Start zebra, then the others: they would wait ten seconds after a first failed try for it."""
    directory = lab.host_run(host)
    for role, text in configs.items():
        path = directory / f"{role}.conf"
        replace_file(path, f"hostname {host}\n{text}")
        shutil.chown(path, "frr", "frr")
    shutil.chown(directory, "frr", "frr")
    directory.chmod(0o755)
    for role in configs:
        command = (
            *(str(FRR / role), "-f", str(directory / f"{role}.conf")),
            *("-z", str(directory / "zserv.api"), "--vty_socket", str(directory)),
            *("-i", str(directory / f"{role}.pid"), "-u", "frr", "-g", "frr", "-P", "0"),
            *_OF_DAEMON.get(role, ()),
            *(("--bfdctl", str(directory / "bfdd.ctl")) if role == "bfdd" else ()),
            *(("-n",) if role == "zebra" and host == "pe" else ()),
        )
        spawn(lab, host, role, wrap(command))
        socket = directory / ("zserv.api" if role == "zebra" else f"{role}.vty")
        if not processes.wait_until(socket.exists, 10):
            raise LabError(f"{host}/{role} does not start: see {directory / role}.log")


def _start_bird(lab: Lab, text: str) -> None:
    directory = lab.host_run("second")
    config, socket = directory / "bird.conf", directory / "bird.ctl"
    replace_file(config, f"log stderr all;\n{text}")
    spawn(lab, "second", "bird", ("bird", "-f", "-c", str(config), "-s", str(socket)))
    if not processes.wait_until(socket.exists, 10):
        raise LabError(f"second/bird does not start: see {directory / 'bird'}.log")


def process(lab: Lab, host: str, role: str, command: tuple[str, ...]) -> Process:
    """A process of a host, which is not started yet."""
    return Process(host, role, command, str(lab.host_run(host) / f"{role}.log"))


def spawn(lab: Lab, host: str, role: str, command: tuple[str, ...]) -> None:
    """Start a process on a host."""
    processes.spawn(lab, process(lab, host, role, command), lab.host(host))


def etcd_shown(lab: Lab, topology: Fabric, users: Sequence[EtcdUser]) -> dict[str, object]:
    """The shared etcd for ``show``: where it is, and the files of its users."""
    pki = settings.pki_directory(lab)
    return {
        "endpoint": settings.etcd_endpoint(topology),
        "ca": str(pki / "ca.crt"),
        "users": {
            user: {"cert": str(files.cert), "key": str(files.key)}
            for user in (*(one.cn for one in users), ROOT)
            for files in [files_of(pki, user)]
        },
    }


def legacy_shown(lab: Lab, topology: Fabric) -> dict[str, object]:
    """The legacy server for ``show``."""
    legacy = topology.legacy
    return {
        "addresses": [str(address) for address in legacy.addresses],
        "further": [str(address) for address in legacy.further],
        "tcp": legacy.tcp,
        "udp": legacy.udp,
        "closed": legacy.closed,
        "log": str(lab.host_run("legacy") / "legacy.log"),
    }
