"""The plugin in a host's folder of plugins: put there, and taken away, as a whole."""

from __future__ import annotations

from pathlib import Path

from mesh.cni.conflist import PLUGIN
from mesh.core.files import replace_file

#: Where ``make build`` leaves it.
BUILT = Path(__file__).parents[2] / "build" / PLUGIN
_MODE = 0o755


def install(folder: Path, built: Path = BUILT) -> Path:
    """Put the plugin into ``folder``, under its name only when it is whole. Raises OSError.

    A plugin that runs goes on with the file that it was started from.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = folder / PLUGIN
    replace_file(path, built.read_bytes(), durable=True, mode=_MODE)
    return path


def uninstall(folder: Path) -> None:
    """Take the plugin away; an absent one is no error. Raises OSError."""
    (folder / PLUGIN).unlink(missing_ok=True)
