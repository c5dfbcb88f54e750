"""The section ``cni`` of the agent's configuration file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mesh.core.section import Section
from mesh.core.strict import Wrong

#: What a path of a unix socket has room for, its end included (unix(7)).
_SUN_PATH = 108
#: The socket is made beside its name first.
_ROOM = 4


class CNISettings(Section, frozen=True):
    """How a container runtime asks this agent for pods' interfaces."""

    socket: Path = Path("/run/meshgate/cni.sock")
    """Unix socket of the plugin ``meshgate-cni``; the CNI list names it."""
    conf_dir: Path = Path("/etc/cni/net.d")
    """Where the runtime reads its CNI list; ``05-meshgate.conflist`` is written there."""
    bin_dir: Path = Path("/opt/cni/bin")
    """Where the runtime finds plugins; ``portmap`` is chained when it is there."""

    def problems(self, path: str) -> Iterator[Wrong]:
        for name in ("socket", "conf_dir", "bin_dir"):
            place: Path = getattr(self, name)
            if not place.is_absolute():
                yield Wrong(f"{path}.{_camel(name)}", f"expected an absolute path, got {place}")
        if len(str(self.socket).encode()) + _ROOM >= _SUN_PATH:
            yield Wrong(f"{path}.socket", f"a path of a socket has room for {_SUN_PATH} bytes")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
