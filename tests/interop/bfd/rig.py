"""A node's datapath and a router with FRR's bfdd or BIRD, and a switch between them.

node: n0 10.99.0.11/24 fd99::11/64 ---- switch: br0 ---- router: r0 10.99.0.1/24 fd99::1/64

The switch cuts the way without taking a carrier from either side. The datapath is loaded by a
process of its own, which ends; so nothing of ours runs but BPF.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bgp.bfd.maps import BFDSeen, decode_seen, encode_session
from bgp.bfd.rows import Session, SessionKey
from bpf.maps import Map
from bpf.object import BPFFS, mount_bpffs
from tests.interop.speaker.frr_router import FRR, NODE, ROUTER, Vty, run, until

ME = os.getpid()
SWITCH = f"bfdt{ME}-s"
PINS = BPFFS / f"bfdt{ME}"
OURS = {4: "10.99.0.11", 6: "fd99::11"}
THEIRS = {4: "10.99.0.1", 6: "fd99::1"}
#: enum bfd_path
UNKNOWN, UP, DOWN = 0, 1, 2
SOAK = bool(os.environ.get("MESHGATE_SOAK"))
#: Seconds in which a cut at 3 x 50 ms is found; beside other tests there is no time for routers.
FOUND_S = 0.25 if SOAK else 1.0


def ip(space: str, *words: str) -> None:
    run("ip", "-n", space, *words)


@contextmanager
def network() -> Iterator[None]:
    """The three namespaces."""
    spaces = (NODE, SWITCH, ROUTER)
    try:
        for space in spaces:
            run("ip", "netns", "add", space)
            ip(space, "link", "set", "lo", "up")
        ip(SWITCH, "link", "add", "br0", "type", "bridge")
        ip(SWITCH, "link", "set", "br0", "up")
        for space, device, host in ((NODE, "n0", "11"), (ROUTER, "r0", "1")):
            ip(space, "link", "add", device, "type", "veth", "peer", f"s{device}", "netns", SWITCH)
            ip(SWITCH, "link", "set", f"s{device}", "master", "br0", "up")
            ip(space, "link", "set", device, "up")
            ip(space, "addr", "add", f"10.99.0.{host}/24", "dev", device)
            ip(space, "addr", "add", f"fd99::{host}/64", "dev", device, "nodad")
        yield
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def cut(device: str, *, off: bool) -> None:
    """Take the way from a port of the switch, or give it back; carriers stay."""
    state = "0" if off else "3"
    run("nsenter", f"--net=/run/netns/{SWITCH}", "bridge", "link", "set", "dev", device,
        "state", state)  # fmt: skip


class Datapath:
    """What an agent has left behind: pinned maps and programs, and a link at n0."""

    def __init__(self) -> None:
        mount_bpffs()
        PINS.mkdir()
        self.load()
        self.states = Map.open_pinned(PINS / "mg_bfd_session")
        self.paths = Map.open_pinned(PINS / "mg_bfd_state")
        self.rows = Map.open_pinned(PINS / "mg_bfd")

    def load(self, *more: str) -> None:
        """By a process that is dead when this returns; again: a replacement."""
        words = [sys.executable, "-m", "tests.interop.bfd.load", str(PINS), "n0", *more]
        run("nsenter", f"--net=/run/netns/{NODE}", *words)

    def close(self) -> None:
        for map_ in (self.states, self.paths, self.rows):
            map_.close()
        shutil.rmtree(PINS)

    def configure(self, family: int, row: Session) -> SessionKey:
        key = SessionKey(ip_address(THEIRS[family]), ip_address(OURS[family]))
        self.rows.update_one(*encode_session(key, row))
        return key

    def forget(self) -> None:
        """No session."""
        keys, _ = self.rows.dump()
        if len(keys):
            self.rows.delete(keys)

    def path(self, number: int) -> int:
        value = self.paths.lookup(number)
        return -1 if value is None else int(value)

    def seen(self, number: int) -> BFDSeen:
        return decode_seen(number, self.states.lookup(number))[1]


class Bfdd:
    """FRR's zebra and bfdd in the router's namespace."""

    def __init__(self, directory: Path, config: str) -> None:
        """In a directory in which zebra runs, or that is to be made."""
        self.directory = directory
        if directory.exists():
            self._write("bfdd", config)
        else:
            directory.mkdir(parents=True)
            shutil.chown(directory, "frr", "frr")
            self._write("zebra", "hostname router\n")
            self._write("bfdd", config)
            self._start("zebra")
            until((directory / "zserv.api").exists, "zebra listens")
        self.start()

    def _write(self, daemon: str, text: str) -> None:
        file = self.directory / f"{daemon}.conf"
        file.write_text(text)
        shutil.chown(file, "frr", "frr")

    def start(self) -> None:
        """bfdd, on time whatever else the machine does."""
        (self.directory / "bfdd.vty").unlink(missing_ok=True)
        self._start("bfdd", "--bfdctl", str(self.directory / "bfdd.sock"))
        until((self.directory / "bfdd.vty").exists, "bfdd listens")
        self.vty = Vty(self.directory / "bfdd.vty")
        run("chrt", "-f", "-p", "50", str(self.pid("bfdd")))

    def _start(self, daemon: str, *more: str) -> None:
        d = self.directory
        words = [str(FRR / daemon), "-d", "-f", f"{d}/{daemon}.conf", "-z", f"{d}/zserv.api"]
        words += ["--vty_socket", str(d), "-i", f"{d}/{daemon}.pid", "-u", "frr", "-g", "frr"]
        run("ip", "netns", "exec", ROUTER, *words, "-P", "0", *more)

    def pid(self, daemon: str) -> int:
        file = self.directory / f"{daemon}.pid"
        until(lambda: file.exists() and file.read_text().strip(), f"{daemon} has a pid")
        return int(file.read_text())

    def kill(self) -> None:
        """Bfdd is gone without a word."""
        os.kill(self.pid("bfdd"), signal.SIGKILL)

    def stop(self) -> None:
        for daemon in ("bfdd", "zebra"):
            with suppress(OSError, ValueError):
                os.kill(self.pid(daemon), signal.SIGKILL)

    def peer(self, address: str) -> dict[str, Any]:
        """What bfdd says of its session with us."""
        peers = json.loads(self.vty.ask("show bfd peers json"))
        return next((one for one in peers if one["peer"] == address), {})

    def state(self, address: str) -> str:
        return str(self.peer(address).get("status", ""))


def bfdd_config(family: int, interval_ms: int, *lines: str, multihop: bool = False) -> str:
    """One peer, our node."""
    hop = " multihop" if multihop else ""
    device = "" if multihop else " interface r0"
    return "\n".join(
        [
            "hostname router",
            "bfd",
            f" peer {OURS[family]}{hop} local-address {THEIRS[family]}{device}",
            "  detect-multiplier 3",
            f"  receive-interval {interval_ms}",
            f"  transmit-interval {interval_ms}",
            *(f"  {line}" for line in lines),
            "  no shutdown",
            " exit",
            "exit",
            "",
        ]
    )


class Bird:
    """BIRD in the router's namespace."""

    def __init__(self, directory: Path, config: str) -> None:
        directory.mkdir(parents=True)
        self._socket = directory / "bird.ctl"
        file = directory / "bird.conf"
        file.write_text(config)
        words = ["bird", "-f", "-c", str(file), "-s", str(self._socket)]
        log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{ROUTER}", *words], stdout=log, stderr=log
        )
        until(self._socket.exists, "BIRD listens")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def state(self, address: str) -> str:
        """Up, Down, Init, or empty."""
        for line in run("birdc", "-s", str(self._socket), "show", "bfd", "sessions").splitlines():
            words = line.split()
            if words and words[0] == address:
                return words[2]
        return ""


def bird_config(family: int, interval_ms: int, *lines: str) -> str:
    """One session, our node."""
    return "\n".join(
        [
            "router id 10.99.0.1;",
            "protocol device { }",
            "protocol bfd {",
            '  interface "r0" {',
            f"    min rx interval {interval_ms} ms; min tx interval {interval_ms} ms;",
            "    multiplier 3;",
            *(f"    {line}" for line in lines),
            "  };",
            f'  neighbor {OURS[family]} dev "r0" local {THEIRS[family]};',
            "}",
            "",
        ]
    )


def within(fact: Callable[[], bool], seconds: float) -> float:
    """Seconds until the fact holds; more than ``seconds`` when it does not."""
    began = time.monotonic()
    while not fact():
        if time.monotonic() - began > seconds:
            return seconds + 1
        time.sleep(0.0005)
    return time.monotonic() - began
