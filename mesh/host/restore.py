"""What an agent has set on its host goes, and former values come back.

For uninstalling. It undoes ``settings.py`` row by row: programs and pins first, so that nothing
works on packets while devices and routes go; sysctls last.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from mesh.host.agent import spelled
from mesh.host.ledger import Ledger
from mesh.kernel import Kernel


def answers(path: Path) -> bool:
    """Whether a process serves this socket: then it would set everything anew."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def unpinned(folder: Path) -> Iterator[str]:
    """Links end with their pins, and so programs and maps do."""
    if folder.is_dir():
        count = _remove(folder)
        yield f"pins bpffs: {count} removed below {folder}, programs are detached"


def _remove(folder: Path) -> int:
    count = 0
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            count += _remove(path)
        else:
            path.unlink()
            count += 1
    folder.rmdir()
    return count


async def removed(kernel: Kernel, pods: str, others: Collection[str]) -> list[str]:
    """Devices, with the routes that lead out of them, and the unreachable routes.

    ``pods`` is how names of the pods' devices begin, ``others`` are further devices.
    """
    links = await kernel.links()
    gone = [name for name in links if name.startswith(pods) or name in others]
    for name in gone:
        await kernel.delete_link(name)
    rules = await kernel.delete_gathering()
    prefixes = await kernel.discard_routes()
    for prefix in prefixes:
        await kernel.delete_discard_route(prefix)
    return [
        f"links: {len(gone)} removed, with the routes that led there",
        f"routes proto 77: {len(prefixes)} unreachable ones removed",
        f"rules proto 77: {rules} removed",
    ]


def restored(file: Path) -> Iterator[str]:
    """Sysctls have their former values."""
    for name, told in Ledger(file).restore().items():
        yield f"{spelled(name)}: {told}"
