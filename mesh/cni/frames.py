"""Bytes between the plugin ``meshgate-cni`` and the agent. Pure.

``deploy/cni/meshgate_cni.c`` is the other side; its head says what a frame is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

MAGIC = b"MGC\x01"
#: Bytes of the variables, and of the network's configuration.
MOST = 4 << 20
_HEAD = struct.Struct(">4sII")
HEAD = _HEAD.size


class FrameError(ValueError):
    """Bytes that are no frame of this version."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of the plugin: its variables, and what stood on stdin."""

    environment: Mapping[str, str]
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What the plugin prints, and its exit status."""

    text: bytes = b""
    status: int = 0


def lengths(head: bytes) -> tuple[int, int]:
    """Bytes of both parts behind a head. Raises FrameError."""
    magic, first, second = _HEAD.unpack(head)
    if magic != MAGIC:
        raise FrameError("not a frame of this version: install the plugin of this agent's version")
    if max(first, second) > MOST:
        raise FrameError(f"longer than {MOST} bytes")
    return first, second


def frame(environment: bytes, stdin: bytes) -> Frame:
    """The call that the two parts of a request make. Raises FrameError."""
    if environment and not environment.endswith(b"\0"):
        raise FrameError("a variable without an end")
    variables = {}
    for one in environment.split(b"\0")[:-1]:
        name, equals, value = one.decode(errors="replace").partition("=")
        if not equals:
            raise FrameError(f"expected NAME=VALUE, got {name!r}")
        variables[name] = value
    return Frame(variables, stdin)


def encode_request(request: Frame) -> bytes:
    """A request as the plugin sends it."""
    variables = "".join(f"{name}={value}\0" for name, value in request.environment.items())
    environment = variables.encode()
    return _HEAD.pack(MAGIC, len(environment), len(request.stdin)) + environment + request.stdin


def encode_reply(answer: Reply) -> bytes:
    """An answer as the plugin reads it."""
    return _HEAD.pack(MAGIC, answer.status, len(answer.text)) + answer.text
