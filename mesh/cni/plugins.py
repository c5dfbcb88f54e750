"""Plugins that a host has: which versions each speaks, asked as a runtime asks (VERSION).

A plugin is asked again when its file has changed.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mesh.cni.versions import SUPPORTED
from mesh.core.files import in_words

#: Seconds that a plugin has to answer, and until one that could not is asked again: what it lacks
#: may come.
ASK_S, AGAIN_S = 5.0, 10.0


class PluginError(Exception):
    """A plugin that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a plugin has said; ``state`` is that of its file then, ``until`` how long it counts."""

    state: tuple[int, int, int]
    spoken: tuple[str, ...] | PluginError
    until: float


class _Spoken(msgspec.Struct, frozen=True, rename="camel"):
    supported_versions: tuple[str, ...]


class Plugins:
    """Those of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: dict[str, _Answer] = {}

    async def versions(
        self, name: str, config: Mapping[str, str] | None = None
    ) -> tuple[str, ...] | None:
        """The versions of a plugin, None when the host has none of that name.

        ``config`` are fields of its configuration. Raises PluginError.
        """
        path = self._folder / name
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PluginError(f"{path}: {in_words(error)}") from error
        state = found.st_ino, found.st_mtime_ns, found.st_size
        last = self._answers.get(name)
        if last is None or last.state != state or last.until < time.monotonic():
            spoken = await _asked(path, config or {})
            again = time.monotonic() + AGAIN_S if isinstance(spoken, PluginError) else math.inf
            last = self._answers[name] = _Answer(state, spoken, again)
        if isinstance(last.spoken, PluginError):
            raise last.spoken
        return last.spoken


async def _asked(path: Path, config: Mapping[str, str]) -> tuple[str, ...] | PluginError:
    question = msgspec.json.encode({"cniVersion": SUPPORTED[-1], **config})
    environment = {**os.environ, "CNI_COMMAND": "VERSION", "CNI_PATH": str(path.parent)}
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            path, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        return PluginError(f"{path}: {in_words(error)}")
    try:
        async with asyncio.timeout(ASK_S):
            said, _ = await child.communicate(question)
        return msgspec.json.decode(said, type=_Spoken).supported_versions
    except TimeoutError:
        return PluginError(f"{path}: it has not answered VERSION within {ASK_S:g} s")
    except msgspec.MsgspecError as error:
        return PluginError(f"{path}: its answer to VERSION cannot be read: {error}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
