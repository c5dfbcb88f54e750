"""``lab up`` and ``lab down``: everything in order, each step with its time.

Up: namespaces, etcd, router, firewall, legacy server, manifests, processes, pods; then it waits
until `meshgate status` is healthy. What fails stays up for inspection. Down removes what the state
file has recorded, and nothing else; with ``force`` also what carries the lab's name.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bpf.build import build
from bpf.object import mount_bpffs
from clustermesh.etcd.auth import CONTROLLER, FEED
from clustermesh.issued import ROOT, Folder, write_pair, write_pki
from mesh.core.files import replace_file
from mesh.lab import fake_kubelet, neighbours, network, processes, settings, tenants
from mesh.lab.neighbours import spawn
from mesh.lab.places import BPFFS, NETNS, OWN, USERS, Lab, LabError, is_mounted
from mesh.lab.topology import Topology

HEALTHY_WITHIN_S = 300.0
SETTLED_WITHIN_S = 10.0
#: What a run directory may hold besides the hosts' directories.
_OWN_FILES = (
    "lab.json",
    "lab.json.new",
    "kubelet.json",
    "kubelet.json.new",
    "topology.yaml",
    "lock",
)
_OWN_DIRECTORIES = ("manifests", "pki", OWN)


class Progress:
    """Prints what is done and how long it took since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        print(f"[{self.elapsed:5.1f} s] {text}", flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin


def up(lab: Lab, topology: Topology, text: str, *, bare: bool = False) -> bool:
    """Build and start everything; whether it became healthy in time.

    ``text`` is the topology's file; ``bare`` leaves out Meshgate's own processes and pods, so that
    network, router, etcd and legacy server stay.

    Raises:
        LabError: a part could not be built or started; what stands is left for inspection.

    """
    progress = Progress()
    _claim(lab, topology, text)
    try:
        _build(lab, topology, progress)
        _start_neighbours(lab, topology, progress)
        if not bare:
            _start_meshgate(lab, topology, progress)
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout or "").strip()
        raise LabError(f"{' '.join(map(str, error.cmd))}: {words}") from error
    healthy = bare or wait_healthy(lab, topology, progress)
    processes.update(lab, lambda state: replace(state, complete=True))
    if healthy:
        progress.say(f"lab {lab.name} is up")
    return healthy


def wait_healthy(lab: Lab, topology: Topology, progress: Progress) -> bool:
    """Whether all pods run and `meshgate status` is healthy within the deadline."""
    missing: list[str] = []
    dead: list[str] = []

    def settled() -> bool:
        dead[:] = _dead(lab)
        missing[:] = [] if dead else [*_unwired(lab, topology), *problems()]
        return bool(dead) or not missing

    processes.wait_until(settled, HEALTHY_WITHIN_S, pause=0.5)
    if not dead + missing:
        return True
    progress.say("not healthy:")
    for line in dead + missing:
        print(f"    {line}", flush=True)
    return False


def problems() -> list[str]:
    """What `meshgate status` finds wrong; empty when healthy."""
    command = [sys.executable, "-m", "mesh.cli", "status", "-o", "json"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, env=processes.environment()
    )
    try:
        status = json.loads(answer.stdout)
    except ValueError:
        return [f"meshgate status: {answer.stderr.strip()[-300:] or 'no answer'}"]
    found = [f"{f['code']} {f['object']} {f['field']} {f['text']}" for f in status["findings"]]
    return [] if status["healthy"] else found or ["meshgate status: not healthy"]


def settled_problems() -> list[str]:
    """What is wrong with a lab that is up, and still is after some seconds."""
    found: list[str] = []

    def settled() -> bool:
        found[:] = problems()
        return not found

    processes.wait_until(settled, SETTLED_WITHIN_S, pause=0.5)
    return found


def down(lab: Lab, *, force: bool = False) -> None:
    """Kill and remove everything that was recorded; with ``force`` also what is named like it."""
    state = processes.read(lab)
    processes.kill_tree(lab.cgroup)
    for process in processes.alive(lab):
        processes.kill(process)
    names = {*(state.netns if state else ()), *(place.netns for place in lab.pods().values())}
    if force:
        names |= {path.name for path in NETNS.glob(f"{lab.name}-*")}
    network.remove(sorted(names))
    _remove_pins(lab, (state.mounts if state else ()))
    if lab.cgroup.is_dir():
        processes.remove_tree(lab.cgroup)
    _remove_run(lab, {name.removeprefix(f"{lab.name}-") for name in names})


def _claim(lab: Lab, topology: Topology, text: str) -> None:
    """Record what is about to be made, so that even a killed run can be taken down."""
    lab.run.mkdir(parents=True, exist_ok=True)
    replace_file(lab.topology, text)
    names = tuple(lab.host(name).netns for name in network.hosts(topology))
    for name in names:
        if (NETNS / name).exists():
            raise LabError(f"namespace {name} exists already: `meshgate lab down --force`")
    mounts = () if is_mounted(BPFFS, "bpf") else (str(BPFFS),)
    processes.update(lab, lambda _: processes.State(netns=names, mounts=mounts))


def _build(lab: Lab, topology: Topology, progress: Progress) -> None:
    build()
    progress.say("BPF objects are built")
    mount_bpffs(BPFFS)
    for _, node in topology.nodes:
        lab.bpffs(node.name).mkdir(parents=True, exist_ok=True)
    for host in (OWN, *network.hosts(topology)):
        lab.host(host).cgroup.mkdir(parents=True, exist_ok=True)
        lab.host_run(host).mkdir(parents=True, exist_ok=True)
    network.build(lab, topology)
    progress.say(f"{len(network.hosts(topology))} hosts are connected")
    served = [str(address) for address in topology.etcd.addresses]
    users = settings.etcd_users(topology)
    pki = write_pki(settings.pki_directory(lab), [ROOT], served, [user.cn for user in users])
    for user in users:
        if user.role in (CONTROLLER, FEED):
            shutil.chown(pki.users[user.cn].key, USERS[user.role])
    _issue_for_feed(lab, settings.feed_names(topology))
    _issue_for_hubble(settings.pki_directory(lab), settings.hubble_names(topology))
    settings.write_manifests(lab, topology)
    progress.say("certificates and manifests are written")


def _issue_for_hubble(pki: Path, names: Mapping[str, str]) -> None:
    """Certificates of servers, each valid for another name, too. A relay is a client as well."""
    if names:
        authority = Folder(pki).authority
        for name, valid_for in names.items():
            write_pair(pki, name, authority.issue_server(name, [valid_for]))
        write_pair(pki, settings.RELAY_CLIENT, authority.issue_user(settings.RELAY_CLIENT))


def _issue_for_feed(lab: Lab, addresses: Sequence[str]) -> None:
    """The certificate of the feed's server, and the firewall's password."""
    if not addresses:
        return
    pki, word = settings.pki_directory(lab), settings.feed_password(lab)
    pair = Folder(pki).authority.issue_server(addresses[0], addresses)
    files = write_pair(pki, settings.FEED_SERVER, pair)
    replace_file(word, f"{secrets.token_urlsafe(16)}\n")
    for file in (files.key, word):
        shutil.chown(file, USERS["feed"])


def _start_neighbours(lab: Lab, topology: Topology, progress: Progress) -> None:
    """What surrounds Meshgate: etcd, the legacy server, the router."""
    neighbours.start(lab, topology, settings.etcd_users(topology))
    progress.say("router and legacy server run; etcd's users may write only their cluster's keys")


def _start_meshgate(lab: Lab, topology: Topology, progress: Progress) -> None:
    for cluster in topology.clusters:
        configs = settings.controller_configs(lab, topology, cluster)
        host = cluster.nodes[0].name
        spawn(lab, host, "controller", settings.meshgate("controller", configs["controller"]))
        standby = settings.meshgate("controller", configs["controller2"])
        processes.record(lab, neighbours.process(lab, host, "controller2", standby))
        for node in cluster.nodes:
            for role, path in settings.node_configs(lab, topology, cluster, node).items():
                spawn(lab, node.name, role, settings.meshgate(role, path))
    _start_feed(lab, topology)
    progress.say("controllers, agents and speakers are started")
    spawn(lab, OWN, "kubelet", (sys.executable, "-m", "mesh.lab.fake_kubelet"))


def _start_feed(lab: Lab, topology: Topology) -> None:
    """The feed on the first node of its cluster, and the firewall's side of it."""
    cluster, feed = topology.feeding, topology.feed
    if cluster is None or feed is None:
        return
    path = settings.feed_config(lab, topology, cluster, feed)
    spawn(lab, cluster.nodes[0].name, "feed", settings.meshgate("feed", path))
    sync = settings.program("firewall_sync.py", settings.firewall_config(lab))
    spawn(lab, "firewall", "firewallSync", sync)


def _dead(lab: Lab) -> list[str]:
    """Processes that were started and have ended: nothing restarts them, so waiting is no use."""
    state = processes.read(lab) or processes.State()
    return [
        f"{each.name} has ended: {_last_words(Path(each.log))}"
        for each in state.processes.values()
        if each.pid and not processes.is_alive(each)
    ]


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'no word'} ({log})"


def _unwired(lab: Lab, topology: Topology) -> Iterator[str]:
    """Pods whose command does not run yet."""
    for cluster, node, name in topology.pod_names:
        place = lab.pod(cluster.name, topology.pods.namespace, name, node.name)
        if not fake_kubelet.runs(place):
            yield f"pod {cluster.name}/{topology.pods.namespace}/{name} has no address yet"
    for one in tenants.made(topology):
        place = lab.pod(one.cluster.name, one.tenant.name, one.name, one.node.name)
        if not fake_kubelet.runs(place):
            yield f"pod {one.full_name} has no address yet"


def _remove_pins(lab: Lab, mounts: tuple[str, ...]) -> None:
    directory = BPFFS / lab.name
    if directory.is_dir():
        shutil.rmtree(directory)
    for mount in mounts:
        if is_mounted(Path(mount), "bpf") and not any(Path(mount).iterdir()):
            subprocess.run(["umount", mount], check=False)


def _remove_run(lab: Lab, hosts: set[str]) -> None:
    """Remove what the lab has written; a file that somebody else left there stays."""
    if not lab.run.is_dir():
        return
    for name in {*_OWN_DIRECTORIES, *hosts}:
        shutil.rmtree(lab.run / name, ignore_errors=True)
    for name in _OWN_FILES:
        (lab.run / name).unlink(missing_ok=True)
    if not any(lab.run.iterdir()):
        lab.run.rmdir()
