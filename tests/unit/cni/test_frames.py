"""Frames between plugin and agent; ``deploy/cni/meshgate_cni.c`` itself is the other side."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.cni.build import BUILT, build
from mesh.cni.frames import (
    HEAD,
    MOST,
    Frame,
    FrameError,
    Reply,
    encode_reply,
    encode_request,
    frame,
    lengths,
)

REQUEST = Frame({"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=2"}, b'{"cniVersion": "1.1.0"}')


def decoded(raw: bytes) -> Frame:
    first, second = lengths(raw[:HEAD])
    assert len(raw) == HEAD + first + second
    return frame(raw[HEAD : HEAD + first], raw[HEAD + first :])


def test_a_request_comes_as_it_was_sent() -> None:
    assert decoded(encode_request(REQUEST)) == REQUEST
    assert decoded(encode_request(Frame({}, b""))) == Frame({}, b"")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"MGC\x02" + bytes(8), "not a frame of this version"),
        (b"GET / HTTP/1", "not a frame of this version"),
        (b"MGC\x01" + (MOST + 1).to_bytes(4, "big") + bytes(4), "longer than"),
    ],
)
def test_other_bytes_are_refused(head: bytes, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        lengths(head)


@pytest.mark.parametrize("environment", [b"A=1", b"A\0", b"A=1\0B\0"])
def test_a_torn_environment_is_refused(environment: bytes) -> None:
    with pytest.raises(FrameError):
        frame(environment, b"")


# --- The plugin itself ----------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()


def plugin(stdin: bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [BUILT], input=stdin, env={"OTHER": "1", **variables}, capture_output=True, check=False
    )


def answering(path: Path, answer: bytes) -> tuple[threading.Thread, list[bytes]]:
    """An agent that takes one request and sends these bytes."""
    server, seen = socket.socket(socket.AF_UNIX), []
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        with server, server.accept()[0] as one:
            raw = one.recv(HEAD, socket.MSG_WAITALL)
            seen.append(raw + one.recv(sum(lengths(raw)), socket.MSG_WAITALL))
            one.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, seen


def test_the_plugin_hands_on_its_variables_and_stdin_and_prints_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    text = json.dumps({"a": {"socket": "/no"}, "socket": str(path), "big": "x" * 100_000}).encode()
    thread, seen = answering(path, encode_reply(Reply(b'{"code": 7}\n', 1)))
    done = plugin(text, CNI_COMMAND="DEL", CNI_ARGS="A=1", K8S_X="y")
    thread.join()
    assert (done.returncode, done.stdout) == (1, b'{"code": 7}\n')
    request = decoded(seen[0])
    assert request.stdin == text
    assert request.environment == {"CNI_COMMAND": "DEL", "CNI_ARGS": "A=1", "K8S_X": "y"}


ALONE: list[tuple[str, int, Callable[[str], object]]] = [
    ("DEL", 0, lambda _: None),
    ("GC", 0, lambda _: None),
    ("STATUS", 50, lambda version: version),
    ("NEVER", 4, lambda version: version),
]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
@pytest.mark.parametrize(("command", "code", "_"), ALONE, ids=[one[0] for one in ALONE])
def test_without_an_answer_the_plugin_decides(
    tmp_path: Path, command: str, code: int, version: str, _: object
) -> None:
    stdin = json.dumps({"cniVersion": version, "socket": str(tmp_path / "no")}).encode()
    done = plugin(stdin, CNI_COMMAND=command)
    if not code:
        assert (done.returncode, done.stdout) == (0, b"")
        return
    said = json.loads(done.stdout)
    assert (done.returncode, said["code"], said["cniVersion"]) == (1, code, version)


@pytest.mark.parametrize(
    "answer", [b"", b"MGC\x01", b"GET / HTTP/1.1 nothing", encode_reply(Reply(b"text"))[:-2]]
)
def test_half_an_answer_is_none(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"
    thread, _ = answering(path, answer)
    done = plugin(json.dumps({"socket": str(path)}).encode(), CNI_COMMAND="STATUS")
    thread.join()
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 50)


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b'{"cniVersion":',
        b'{"cniVersion":"',
        b'{"cniVersion": 1}',
        b'"',
        b"[]",
        b"\xff\\",
    ],
)
def test_odd_input_gets_the_newest_version(stdin: bytes, tmp_path: Path) -> None:
    """The socket is the default one, which no agent of a test has."""
    if Path("/run/meshgate/cni.sock").exists():
        return
    done = plugin(stdin, CNI_COMMAND="VERSION")
    said = json.loads(done.stdout)
    assert (done.returncode, said["cniVersion"]) == (0, "1.1.0")
    assert said["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing is left anywhere
