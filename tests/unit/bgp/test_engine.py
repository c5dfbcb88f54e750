"""Where ExaBGP's files are, without an ExaBGP."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bgp.exabgp.engine import Engine
from bgp.exabgp.launcher import lock
from bpf.privileges import User


@contextmanager
def running(run_dir: Path, *words: str) -> Iterator[None]:
    """A process with these words in its command line, and the lock that an ExaBGP holds."""
    run_dir.mkdir(exist_ok=True)
    held = lock(run_dir / "exabgp.pid")
    assert held is not None
    with subprocess.Popen([sys.executable, "-S", "-", *words], stdin=subprocess.PIPE) as process:
        command = Path(f"/proc/{process.pid}/cmdline")
        while not command.read_bytes():  # execve closes descriptors before it writes the words
            os.sched_yield()
        os.ftruncate(held, 0)
        os.pwrite(held, f"{process.pid}\n".encode(), 0)
        yield
        os.close(held)


def test_an_exabgp_from_before_it_had_a_folder_is_spoken_with_where_it_is(tmp_path: Path) -> None:
    """An update of the speaker ends no session."""
    engine = Engine(tmp_path / "run")
    with running(engine.run_dir, "-m", "bgp.exabgp.patches"):
        assert engine.is_former
        engine.write_config("of the former")
        assert (engine.run_dir / "exabgp.conf").read_text() == "of the former"
        assert engine.socket == engine.run_dir / "relay.ctl"
        assert engine.relay_command[-2:] == [str(engine.socket), str(engine.run_dir / "relay.pid")]
    assert not engine.is_former
    engine.write_config("of the next")
    assert (engine.folder / "exabgp.conf").read_text() == "of the next"
    with running(engine.run_dir, "launcher.py"):
        assert not engine.is_former
        assert engine.socket == engine.folder / "relay" / "relay.ctl"


def test_an_exabgp_of_another_user_goes_on_and_is_known(tmp_path: Path) -> None:
    """The user was changed in the speaker's configuration."""
    engine = Engine(tmp_path / "run", User(os.geteuid() + 1, os.getegid()))
    assert engine.is_as_wanted
    assert engine.listener == os.geteuid() + 1
    with running(engine.run_dir):
        assert engine.listener == os.geteuid()
        assert not engine.is_as_wanted


def test_the_folders_of_exabgp_are_open_to_no_stranger(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "run")
    engine.write_config("")
    folders = (engine.run_dir, engine.folder, engine.folder / "relay")
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in folders]
    assert modes == [0o700, 0o750, 0o2750]
