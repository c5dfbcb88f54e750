"""The probe of the chart's pods: it wants an answer, not an open socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

PROBE = Path(__file__).parents[3] / "deploy/image/meshgate-probe"


def asked(path: Path) -> tuple[int, str]:
    words = [sys.executable, "-ISB", str(PROBE), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_process_that_serves_passes(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{tmp_path / 'a.sock'}")
    server.start()
    try:
        assert asked(tmp_path / "a.sock") == (0, "")
    finally:
        server.stop(None)


def test_a_process_that_hangs_does_not_pass(tmp_path: Path) -> None:
    """Its kernel takes the connection; nobody answers."""
    path = tmp_path / "b.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        text = PROBE.read_text().replace("settimeout(5)", "settimeout(0.1)")
        done = subprocess.run(
            [sys.executable, "-ISB", "-c", text, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"{path}: timed out\n")


def test_a_socket_that_is_not_there_does_not_pass(tmp_path: Path) -> None:
    status, text = asked(tmp_path / "c.sock")
    assert (status, text) == (1, f"{tmp_path / 'c.sock'}: No such file or directory\n")
