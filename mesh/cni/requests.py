"""What a runtime asks for: a frame becomes a ``RuntimeCall``, or a refusal with a code. Pure.

Source: CNI SPEC.md 1.1.0, sections 2 and 5. Variables of Kubernetes are in ``CNI_ARGS``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import msgspec

from mesh.cni import versions
from mesh.cni.frames import Frame

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
#: Variables without which a command cannot be served.
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_INTERFACE = re.compile(r"[^/:\s\0]{1,15}\Z")


class Code(IntEnum):
    """Codes of errors; those from 100 on are ours."""

    VERSION = 1
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    CONFIG = 7
    AGAIN = 11
    NOT_AVAILABLE = 50
    TAKEN = 100
    CHANGED = 101


class RefusedError(Exception):
    """A call that is not served: code, sentence, and more about it."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


class _ValidAttachment(msgspec.Struct, frozen=True):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    """The network's configuration; runtimes add fields of their own, which are ignored."""

    cni_version: str | None = None
    name: str | None = None
    prev_result: Any = None
    valid: tuple[_ValidAttachment, ...] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    cni_version: str | None = None


@dataclass(frozen=True, slots=True)
class RuntimeCall:
    """One command with what it is about; empty texts are absent ones.

    ``valid`` are the attachments that GC leaves; None: it was not told, so it leaves all.
    """

    command: str
    version: str
    network: str = ""
    container: str = ""
    netns: str = ""
    interface: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    previous: Mapping[str, Any] | None = None
    valid: frozenset[tuple[str, str]] | None = None

    @property
    def pod(self) -> str:
        """``namespace/name`` of the pod, for sentences."""
        return f"{self.arguments['K8S_POD_NAMESPACE']}/{self.arguments['K8S_POD_NAME']}"


def version_of(frame: Frame) -> str:
    """The version in which an answer is to be given, whatever else is wrong with the call."""
    try:
        version = msgspec.json.decode(frame.stdin, type=_Version).cni_version
    except msgspec.MsgspecError:
        return versions.SUPPORTED[-1]
    return version or versions.NONE


def call_of(frame: Frame) -> RuntimeCall:
    """The call of a frame. Raises RefusedError."""
    command = frame.environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise RefusedError(Code.ENVIRONMENT, f"CNI_COMMAND: expected a command, got {command!r}")
    if command == "VERSION":
        return RuntimeCall(command, version_of(frame))
    config = _config(frame.stdin)
    version = config.cni_version or versions.NONE
    _check_version(command, version)
    if not config.name:
        raise RefusedError(Code.CONFIG, "name: required")
    valid = config.valid
    return RuntimeCall(
        command,
        version,
        config.name,
        *_place(command, frame.environment),
        arguments=_arguments(frame.environment.get("CNI_ARGS", "")),
        previous=_previous(config.prev_result),
        valid=None if valid is None else frozenset((v.container_id, v.ifname) for v in valid),
    )


def _config(stdin: bytes) -> _Config:
    try:
        return msgspec.json.decode(stdin, type=_Config)
    except msgspec.ValidationError as error:
        raise RefusedError(Code.CONFIG, f"the network's configuration: {error}") from error
    except msgspec.MsgspecError as error:
        raise RefusedError(Code.DECODE, f"the network's configuration: {error}") from error


def _check_version(command: str, version: str) -> None:
    if version not in versions.SUPPORTED:
        known = ", ".join(versions.SUPPORTED)
        text = f"cniVersion: expected one of {known}, got {version!r}"
        raise RefusedError(Code.VERSION, text)
    since = versions.SINCE.get(command, version)
    if not versions.at_least(version, since):
        raise RefusedError(Code.VERSION, f"cniVersion {version} has no {command}: it is of {since}")


def _place(command: str, environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Container, network namespace and interface."""
    for name in _NEEDS.get(command, ()):
        if not environment.get(name):
            raise RefusedError(Code.ENVIRONMENT, f"{name}: required for {command}")
    container = environment.get("CNI_CONTAINERID", "")
    interface = environment.get("CNI_IFNAME", "")
    if container and not _CONTAINER.match(container):
        text = f"CNI_CONTAINERID: expected letters, digits, dots, dashes, got {container!r}"
        raise RefusedError(Code.ENVIRONMENT, text)
    if interface and (not _INTERFACE.match(interface) or interface in (".", "..")):
        text = f"CNI_IFNAME: expected a device's name of at most 15 characters, got {interface!r}"
        raise RefusedError(Code.ENVIRONMENT, text)
    return container, environment.get("CNI_NETNS", ""), interface


def _arguments(text: str) -> dict[str, str]:
    """``K=V;K=V``; what is no pair says nothing."""
    pairs = (one.partition("=") for one in text.split(";"))
    return {name: value for name, equals, value in pairs if equals}


def _previous(found: object) -> Mapping[str, Any] | None:
    if found is None or isinstance(found, dict):
        return found
    raise RefusedError(Code.CONFIG, "prevResult: expected an object")
