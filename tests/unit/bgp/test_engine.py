"""Where ExaBGP's files are, without an ExaBGP."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bgp.exabgp.engine import Engine
from bgp.exabgp.launcher import lock


def running(run_dir: Path) -> int:
    """The lock that an ExaBGP holds."""
    run_dir.mkdir(exist_ok=True)
    held = lock(run_dir / "exabgp.pid")
    assert held is not None
    os.write(held, b"17\n")
    return held


def test_an_exabgp_from_before_it_had_a_folder_is_spoken_with_where_it_is(tmp_path: Path) -> None:
    """An update of the speaker ends no session."""
    engine = Engine(tmp_path / "run")
    held = running(engine.run_dir)
    assert engine.is_former
    engine.write_config("of the former")
    assert (engine.run_dir / "exabgp.conf").read_text() == "of the former"
    assert engine.socket == engine.run_dir / "relay.ctl"
    assert engine.listener == os.geteuid()
    assert engine.relay_command[-2:] == [str(engine.socket), str(engine.run_dir / "relay.pid")]
    os.close(held)
    assert not engine.is_former
    engine.write_config("of the next")
    assert (engine.folder / "exabgp.conf").read_text() == "of the next"
    held = running(engine.run_dir)
    assert not engine.is_former
    assert engine.socket == engine.folder / "relay" / "relay.ctl"
    os.close(held)


def test_the_folders_of_exabgp_are_open_to_no_stranger(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "run")
    engine.write_config("")
    folders = (engine.run_dir, engine.folder, engine.folder / "relay")
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in folders]
    assert modes == [0o700, 0o750, 0o2750]
