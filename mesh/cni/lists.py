"""The CNI list of this node, kept up to date in the runtime's folder.

It is written when this agent can first serve ADD. It stays while the agent is away: the plugin
waits for the next one. Every file is replaced as a whole, because runtimes watch the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mesh.cni import conflist, versions
from mesh.cni.findings import NO_LIST, OTHER_LIST, PLUGIN
from mesh.cni.plugins import PluginError, Plugins
from mesh.cni.settings import CNISettings
from mesh.core.files import in_words, replace_file
from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.core.ticks import tick

#: Seconds between looks: another CNI's list is followed within one second.
LOOK_S = 0.5
_MODE = 0o644  # a runtime need not be root


@dataclass(frozen=True, slots=True)
class _Other:
    """Another CNI's list."""

    name: str
    content: dict[str, Any]


class Lists:
    """``unready`` says why no pod can be connected now; ``beside``: another CNI is there."""

    def __init__(
        self, settings: CNISettings, unready: Callable[[], str], *, beside: bool = False
    ) -> None:
        self._settings, self._unready, self._beside = settings, unready, beside
        self._plugins = Plugins(settings.bin_dir)
        self._served = False  # this agent can serve, or could once
        self._problems: dict[Code, Finding] = {}
        #: Whether ``portmap`` stands in the list; None: nothing is written yet.
        self.portmap: bool | None = None

    async def run(self) -> None:
        """Keep the list until cancelled."""
        while True:
            await self.look()
            await tick(LOOK_S)

    async def look(self) -> None:
        """Write the list anew if it is not as it should be."""
        self._served = self._served or not self._unready()
        if not self._served:
            return
        self._problems = {}
        try:
            if self._beside:
                await self._write_beside()
            else:
                await self._write_whole()
        except OSError as error:
            self._problem(NO_LIST, str(self._settings.conf_dir), in_words(error))
        except PluginError as error:
            self._problem(NO_LIST, str(self._settings.bin_dir), str(error))

    def findings(self) -> Iterable[Finding]:
        """What is wrong with the list."""
        return self._problems.values()

    def _problem(self, code: Code, place: str, text: str) -> None:
        self._problems[code] = Finding(code, place, "", text)

    async def _write_whole(self) -> None:
        spoken, chained = [await self._own_versions()], []
        if portmap := await self._portmap_versions():
            spoken.append(portmap)
            chained.append(conflist.PORTMAP)
        self.portmap = bool(chained)
        text = conflist.whole(versions.highest(spoken), self._settings.socket, chained)
        self._replace(conflist.WHOLE, text)
        self._remove(conflist.BESIDE)

    async def _portmap_versions(self) -> tuple[str, ...] | None:
        place, found = str(self._settings.bin_dir / conflist.PORTMAP), None
        try:
            found = await self._plugins.versions(conflist.PORTMAP)
        except PluginError as error:
            self._problem(PLUGIN, place, str(error))
        if found and not versions.highest([found]):
            self._problem(PLUGIN, place, f"it speaks no version that we speak: {', '.join(found)}")
            return None
        return found

    async def _own_versions(self) -> tuple[str, ...]:
        config = {"socket": str(self._settings.socket)}
        found = await self._plugins.versions(conflist.PLUGIN, config)
        if found is None:
            raise PluginError(f"{self._settings.bin_dir / conflist.PLUGIN} is not installed")
        return found

    async def _write_beside(self) -> None:
        spoken = await self._own_versions()
        self._remove(conflist.WHOLE)
        other = self._other()
        if other is None:
            self._remove(conflist.BESIDE)
            folder = self._settings.conf_dir
            self._problem(OTHER_LIST, str(folder), "no other CNI list is in the folder")
            return
        version = other.content.get("cniVersion", "")
        if version not in spoken:
            self._remove(conflist.BESIDE)
            text = f"{other.name}: its cniVersion {version!r} is none of ours"
            self._problem(OTHER_LIST, str(self._settings.conf_dir / other.name), text)
            return
        self._replace(conflist.BESIDE, conflist.beside(other.content, self._settings.socket))

    def _other(self) -> _Other | None:
        """The list that a runtime would take without us."""
        folder = self._settings.conf_dir
        if not folder.is_dir():
            return None
        for name in conflist.first(path.name for path in folder.iterdir()):
            try:
                return _Other(name, conflist.parse(name, (folder / name).read_bytes()))
            except (ValueError, FileNotFoundError):
                continue  # a runtime takes the next one
        return None

    def _replace(self, name: str, text: str) -> None:
        path = self._settings.conf_dir / name
        try:
            if path.read_text() == text:
                return
        except (FileNotFoundError, UnicodeDecodeError):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, text, durable=True, mode=_MODE)

    def _remove(self, name: str) -> None:
        (self._settings.conf_dir / name).unlink(missing_ok=True)
