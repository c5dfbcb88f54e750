"""ExaBGP speaks with strangers: it is a user of its own, and reaches its own folder only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from bgp.desired import Peering
from bgp.exabgp.config import config_text
from bgp.exabgp.engine import ENVIRONMENT, Engine
from bpf.privileges import CAPABILITIES
from tests.interop.speaker.driver import USER
from tests.interop.speaker.frr_router import until

pytestmark = pytest.mark.slow

#: In the relay's place: what ExaBGP could do had a router taken it over. It says what it got.
HOSTILE = """
import json, os, socket, sys
from pathlib import Path
run = Path(os.readlink("/proc/self/cwd")).parent
def got(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
    return "yes"
def raw():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
def root():
    os.setuid(0)
said = {
    "read shadow": got(Path("/etc/shadow").read_bytes),
    "read state": got((run / "applied.json").read_bytes),
    "read a key": got((run.parent / "speaker.key").read_bytes),
    "write the configuration": got(lambda: open("exabgp.conf", "a")),
    "write the relay": got(lambda: open("relay.py", "a")),
    "lay a file beside": got(lambda: open("evil", "x")),
    "remove the configuration": got(lambda: os.unlink("exabgp.conf")),
    "signal a process of root": got(lambda: os.kill(1, 0)),
    "raw socket": got(raw),
    "be root": got(root),
}
Path("relay/said").write_text(json.dumps(said))
sys.stdin.read()
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A running ExaBGP, in a folder that nobody but root may enter."""
    monkeypatch.setenv("PYTHONINSPECT", "1")
    monkeypatch.setenv("EXABGP_DAEMON_PID", str(tmp_path / "pid"))
    tmp_path.chmod(0o700)
    engine = Engine(tmp_path / "run", USER)
    engine.own()
    (tmp_path / "speaker.key").write_text("secret")
    engine.applied.write_text("{}")
    row = Peering("p", ip_address("127.0.0.77"), 65000, ip_address("127.0.0.1"), 65101, 9, 120, ())
    engine.write_config(config_text([row], IPv4Address("127.0.0.1"), engine.relay_command))
    asyncio.run(engine.start())
    try:
        until(engine.relay_pid, "the relay runs")
        yield engine
    finally:
        if pid := engine.pid():
            os.kill(pid, signal.SIGKILL)
        engine.disown()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: " ".join(rest.split()) for name, _, rest in (line.partition(":") for line in lines)
    }


def test_exabgp_and_its_relay_have_a_user_of_their_own_and_can_listen_at_most(
    engine: Engine,
) -> None:
    exabgp, relay = engine.pid(), engine.relay_pid()
    assert exabgp
    assert relay
    for pid in (exabgp, relay):
        found = status(pid)
        assert found["Uid"] == " ".join([str(USER.uid)] * 4)
        assert found["Gid"] == " ".join([str(USER.gid)] * 4)
        assert found["Groups"] == ""
        may = f"{1 << CAPABILITIES['CAP_NET_BIND_SERVICE']:016x}"
        assert {found[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
        sets = {found[name] for name in ("CapPrm", "CapEff")}
        assert sets == {may if pid == exabgp else "0" * 16}
        assert found["CapBnd"] == may
        assert found["NoNewPrivs"] == "1"


def test_the_environment_of_both_is_fixed(engine: Engine) -> None:
    for pid in (engine.pid(), engine.relay_pid()):
        words = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found = dict(word.split("=", 1) for word in words if word)
        assert {name: found.get(name) for name in ENVIRONMENT} == ENVIRONMENT
        # The second is our own (``mesh/__init__.py``), for whatever ExaBGP's process starts.
        assert found.keys() - ENVIRONMENT.keys() <= {"TERM", "OPENBLAS_NUM_THREADS"}


def test_an_exabgp_that_was_taken_over_gets_nothing(engine: Engine) -> None:
    (engine.folder / "relay.py").write_text(HOSTILE)
    relay = engine.relay_pid()
    assert relay
    os.kill(relay, signal.SIGKILL)
    said = engine.folder / "relay" / "said"
    until(lambda: said.exists() and said.read_text(), "the hostile relay has tried")
    assert {name: got for name, got in json.loads(said.read_text()).items() if got == "yes"} == {}


@pytest.mark.parametrize("kind", ["pipe", "link", "words"])
def test_a_pid_file_that_holds_no_pid_holds_nobody_up(engine: Engine, kind: str) -> None:
    """Its user may put anything there."""
    path = engine.folder / "relay" / "relay.pid"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(engine.run_dir / "exabgp.pid")
    else:
        path.write_text("1" * 1000)
    assert engine.relay_pid() is None
