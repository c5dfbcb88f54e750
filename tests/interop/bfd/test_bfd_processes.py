"""Agent, speaker and ExaBGP as they run, against FRR's bgpd and bfdd. Topology: rig.py.

BGP over IPv4 has BFD, BGP over IPv6 has none: what happens to one session is no other's affair.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgp.routers.frr import Neighbor, router_config
from bpf.build import build
from bpf.object import BPFFS, mount_bpffs
from mesh.observe.tables import Process, ask
from tests.interop.bfd.rig import FOUND_S, ME, OURS, SOAK, THEIRS, Bfdd, cut, network, within
from tests.interop.speaker import test_speaker as speakers
from tests.interop.speaker.frr_router import NODE, Router, until
from tests.packet.conftest import cgroup_mount

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
HUNG_S = 10.0 if SOAK else 3.0
#: A start, no claim: while three labs start beside it (50 processes on two cores) it took 32 s.
COMES_UP_S = 90.0
UP = {
    THEIRS[4]: "established",
    THEIRS[6]: "established",
    "speaker": "up",
    "agent": "up",
    "bfdd": "up",
}
PROFILE = """hostname router
bfd
 profile fast
  detect-multiplier 3
  receive-interval {ms}
  transmit-interval {ms}
 exit
exit
"""


def peer(name: str, address: str, **fields: Any) -> dict[str, Any]:
    spec = speakers.PEER_SPEC | {"address": address, "holdSeconds": 90, **fields}
    return speakers.own_document("BGPPeer", name, spec)


def spawn(role: str, config: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process in the node's namespace that sees bpffs (``ip netns exec`` hides it)."""
    words = [sys.executable, "-m", "mesh.cli", role, "--config", str(config)]
    with log.open("ab") as out:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{NODE}", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
        )


class Speaker(speakers.Node):
    """The speaker with its manifests."""

    def start(self) -> None:
        self.process = spawn("speaker", self.config, self.log)


class Agent:
    """A node's agent in the namespace of the speaker, on its manifests."""

    def __init__(self, directory: Path, manifests: Path) -> None:
        self.log, self.socket = directory / "agent.log", directory / "agent.sock"
        self.bpffs = BPFFS / f"bfdt{ME}-agent"
        self.cgroup = cgroup_mount() / f"bfdt{ME}"
        self.cgroup.mkdir()
        self.config = directory / "agent.yaml"
        settings = {
            "cluster": {"name": "east", "id": 1},
            "node": "east-1",
            "manifests": str(manifests),
            "etcd": {"endpoints": [speakers.ETCD]},
            "bpffs": str(self.bpffs),
            "cgroup": str(self.cgroup),
            "uplink": "n0",
            "socket": str(self.socket),
            "podNetns": f"/run/netns/bfdt{ME}-{{cluster}}_{{namespace}}_{{name}}",
            "egress": {"blockSize": 256, "blocksPerNode": 4},
            "stateDir": str(directory / "agent"),
        }
        self.config.write_text(yaml.safe_dump(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = spawn("agent", self.config, self.log)

    def rows(self) -> list[dict[str, Any]]:
        answer = ask([Process("east-1", "agent", self.socket)], ["bfd"])[0]
        return [dict(row) for row in answer.rows.get("bfd", ())]

    def codes(self) -> set[str]:
        status = dict(ask([Process("east-1", "agent", self.socket)], ["bfd"])[0].status)
        return {str(one["code"]) for one in status.get("findings", ())}

    def state(self) -> str:
        return next((str(row["state"]) for row in self.rows()), "")

    def stop(self) -> None:
        if self.process:
            with suppress(OSError):
                self.process.kill()
            self.process.wait()
        if self.bpffs.exists():
            shutil.rmtree(self.bpffs)
        with suppress(OSError):
            self.cgroup.rmdir()


class Rig:
    """All of it, up."""

    def __init__(self, directory: Path, place: Path, stack: ExitStack) -> None:
        neighbors = [Neighbor(ip_address(one), 65101) for one in OURS.values()]
        text = router_config(65000, ip_address(THEIRS[4]), neighbors)
        self.router = Router(place / "frr", text)
        stack.callback(self.router.stop)
        self.bfdd = Bfdd(place / "frr", PROFILE.format(ms=50))
        stack.callback(self.bfdd.stop)
        ours = f"neighbor {OURS[4]}"
        self.router.vty.configure("router bgp 65000", f"{ours} bfd", f"{ours} bfd profile fast")
        self.etcd = speakers.Etcd(directory)
        stack.callback(self.etcd.stop)
        self.etcd.start()
        self.etcd.put("podcidr/10.1.0.0_16_24/number/0", {"owner": "east-1", "released": 0})
        self.etcd.put("podcidr/fd01::_48_64/number/0", {"owner": "east-1", "released": 0})
        self.etcd.put("locator/fcbb:bb01::_32_48/number/1", {"owner": "east-1", "released": 0})
        self.etcd.put("synced", {"store": "test"})
        self.speaker = Speaker(directory)
        stack.callback(self.end_speaker)
        (self.speaker.manifests / "egress.yaml").unlink()
        self.speaker.write("peer", peer("router", THEIRS[4], bfd={"interval": 50}))
        self.speaker.write("six", peer("six", THEIRS[6], advertise=["srv6Locators"]))
        self.agent = Agent(directory, self.speaker.manifests)
        stack.callback(self.agent.stop)
        settings = yaml.safe_load(self.speaker.config.read_text())
        settings["bpffs"] = str(self.agent.bpffs)
        self.speaker.config.write_text(yaml.safe_dump(settings))
        self.agent.start()
        self.speaker.start()

    def end_speaker(self) -> None:
        if self.speaker.process:
            self.speaker.kill()
        pid = self.speaker.engine.pid()
        if pid:
            os.killpg(os.getpgid(pid), signal.SIGKILL)

    def peers(self) -> dict[str, dict[str, Any]]:
        return {str(row["address"]): row for row in self.speaker.rows("peer")}

    def states(self) -> dict[str, str]:
        """The state of each session as each process shows it."""
        rows = self.peers()
        return {
            **{address: str(row["state"]) for address, row in rows.items()},
            "speaker": str(rows.get(THEIRS[4], {}).get("bfd")),
            "agent": self.agent.state(),
            "bfdd": self.bfdd.state(OURS[4]),
        }

    def is_up(self) -> bool:
        return self.states() == UP

    def come_up(self, sentence: str) -> None:
        """Wait until all is up; the failure names the states that are not."""
        try:
            until(self.is_up, sentence, COMES_UP_S)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.states()}") from None

    def routes(self) -> set[str]:
        """What the router has of us."""
        vty = self.router.vty
        return {*vty.routes("ipv4 unicast"), *vty.routes("ipv6 unicast")}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    build()
    mount_bpffs()
    place = Path(f"/run/bfdt-{ME}")
    place.mkdir(mode=0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        stack.enter_context(network())
        yield Rig(tmp_path_factory.mktemp("bfd"), place, stack)


@pytest.fixture
def up(rig: Rig) -> Rig:
    rig.come_up("all sessions are up, on both sides")
    return rig


def signalled(rig: Rig, number: int) -> list[int]:
    """Signal agent, speaker, ExaBGP and its relay at once; the processes."""
    assert rig.agent.process is not None
    assert rig.speaker.process is not None
    pids = [rig.agent.process.pid, rig.speaker.process.pid, rig.speaker.engine.pid()]
    pids.append(rig.speaker.engine.relay_pid())
    found = [pid for pid in pids if pid]
    assert len(found) == 4
    for pid in found:
        os.kill(pid, number)
    return found


def test_the_agent_makes_the_session_and_the_speaker_shows_it(up: Rig) -> None:
    (row,) = up.agent.rows()
    assert (str(row["peer"]), str(row["local"])) == (THEIRS[4], OURS[4])
    assert (row["interval"], row["detection"], row["downs"]) == ("50 ms x 3", "150 ms", 0)
    assert up.peers()[THEIRS[6]]["bfd"] == "-"
    assert up.bfdd.peer(OURS[4])["remote-transmit-interval"] == 50
    assert not up.agent.codes() & {"B250", "B251", "B252", "B253", "B254", "B255"}


def test_hung_processes_change_no_session(up: Rig) -> None:
    """SIGSTOP to all of ours at once: bfdd notices nothing."""
    pids = signalled(up, signal.SIGSTOP)
    try:
        end = time.monotonic() + HUNG_S
        while time.monotonic() < end:
            assert up.bfdd.state(OURS[4]) == "up"
            time.sleep(0.1)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    up.come_up("all goes on")
    assert up.agent.rows()[0]["downs"] == 0


def test_a_cut_ends_the_bgp_session_and_no_other(up: Rig) -> None:
    """Down on both sides, then the speaker ends BGP over IPv4; it comes back when it can."""
    downs = up.agent.rows()[0]["downs"]
    cut("sr0", off=True)
    try:
        took = within(lambda: up.peers()[THEIRS[4]]["bfd"] == "down", 2)
        closed = within(lambda: up.peers()[THEIRS[4]]["state"] != "established", 3)
        until(lambda: up.bfdd.state(OURS[4]) == "down", "bfdd is down", 3)
        reason = up.peers()[THEIRS[4]]["reason"]
        until(lambda: "B250" in up.agent.codes(), "the finding says so", 10)
    finally:
        cut("sr0", off=False)
    sys.stdout.write(
        f"\ncut: the speaker sees it after {took * 1000:.0f} ms, BGP ends {closed * 1000:.0f} ms"
        f" later: {reason}\n"
    )
    assert took < FOUND_S + 0.25
    assert closed < 2
    assert "BFD" in reason
    up.come_up("all is up again")
    assert up.peers()[THEIRS[6]]["state"] == "established"
    assert up.agent.rows()[0]["downs"] == downs + 1
    until(lambda: "B250" not in up.agent.codes(), "the finding goes", 10)


def test_the_router_is_told(up: Rig) -> None:
    """Bfdd is killed, BGP's way stands: a NOTIFICATION, which ends graceful restart (RFC 4724)."""

    def neighbor(address: str) -> dict[str, Any]:
        found: dict[str, Any] = up.router.vty.json(f"show bgp neighbors {address}")[address]
        return found

    def told() -> int:
        return int(neighbor(OURS[4])["messageStats"]["notificationsRecv"])

    before, other = told(), neighbor(OURS[6])["bgpTimerUpMsec"]
    up.bfdd.kill()
    try:
        until(lambda: up.peers()[THEIRS[4]]["bfd"] == "down", "BFD is down", 5)
        until(lambda: told() > before, "the router has heard of it", 5)
    finally:
        up.bfdd.start()
    up.come_up("all is up again")
    until(lambda: "10.1.0.0/24" in up.routes(), "the router has our prefix", COMES_UP_S)
    assert neighbor(OURS[6])["bgpTimerUpMsec"] > other, "the other session has noticed nothing"


def test_a_session_that_was_down_comes_up_with_all_dead(up: Rig) -> None:
    """Agent, speaker and ExaBGP are killed, then the way is cut and mended."""
    pids = signalled(up, signal.SIGKILL)
    assert pids
    assert up.agent.process is not None
    assert up.speaker.process is not None
    up.agent.process.wait()
    up.speaker.process.wait()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert up.bfdd.state(OURS[4]) == "up"
        time.sleep(0.1)
    cut("sr0", off=True)
    until(lambda: up.bfdd.state(OURS[4]) == "down", "bfdd is down", 3)
    cut("sr0", off=False)
    until(lambda: up.bfdd.state(OURS[4]) == "up", "it comes up, with all of ours dead", COMES_UP_S)
    up.agent.start()
    up.speaker.start()
    up.come_up("the next ones take over")


def test_bfd_that_is_taken_from_the_peer_takes_no_session_down(up: Rig) -> None:
    """The router hears AdminDown, and BGP goes on."""
    uptime = up.router.vty.peer(OURS[4])["peerUptimeMsec"]
    up.speaker.write("peer", peer("router", THEIRS[4]))
    until(lambda: up.bfdd.state(OURS[4]) != "up", "bfdd hears of the end", COMES_UP_S)
    until(lambda: not up.agent.rows(), "the session is gone", COMES_UP_S)
    assert up.peers()[THEIRS[4]]["state"] == "established"
    assert up.router.vty.peer(OURS[4])["peerUptimeMsec"] > uptime
    up.speaker.write("peer", peer("router", THEIRS[4], bfd={"interval": 50}))
    up.come_up("it comes back")


@pytest.mark.parametrize("interval", [0, 49, 60_001])
def test_an_impossible_interval_is_refused_by_its_path(up: Rig, interval: int) -> None:
    """The former object counts on."""

    def told() -> str:
        return str(up.speaker.status().get("findings", ""))

    up.speaker.write("peer", peer("router", THEIRS[4], bfd={"interval": interval}))
    until(lambda: "spec.bfd.interval" in told(), "the finding names the field", 10)
    assert up.is_up()
    up.speaker.write("peer", peer("router", THEIRS[4], bfd={"interval": 50}))
    until(lambda: "spec.bfd.interval" not in told(), "the finding goes", 10)
