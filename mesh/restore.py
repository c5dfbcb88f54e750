"""``meshgate host restore``: what the agent has set on this host goes, and former values come back.

For uninstalling. It undoes ``mesh/host/settings.py`` row by row: programs and pins first, so that
nothing works on packets while devices and routes go; sysctls last.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from mesh.config import AgentConfig, ConfigError, load_agent
from mesh.core.files import in_words
from mesh.datapath.hooks import VXLAN_DEVICE
from mesh.host.agent import FILE, spelled
from mesh.host.ledger import Ledger
from mesh.kernel import Kernel
from mesh.pods.links import DEVICE_PREFIX


def main(path: Path) -> int:
    """Undo everything. Exit status: 0 done, 1 something is left, 2 configuration."""
    try:
        config = load_agent(path)
    except ConfigError as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 2
    if _answers(config.socket):
        print(f"meshgate: the agent at {config.socket} runs: stop it first", file=sys.stderr)
        return 1
    try:
        for line in _unpinned(config.bpffs):
            print(line)
        for line in asyncio.run(_removed()):
            print(line)
        for line in _restored(config):
            print(line)
    except OSError as error:
        print(f"meshgate: {error.filename or 'the kernel'}: {in_words(error)}", file=sys.stderr)
        return 1
    return 0


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _unpinned(folder: Path) -> Iterator[str]:
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


async def _removed() -> list[str]:
    """Devices, with the routes that lead out of them, and the unreachable routes."""
    lines = []
    async with Kernel.open() as kernel:
        pods = [name for name in await kernel.links() if name.startswith(DEVICE_PREFIX)]
        for name in (*pods, VXLAN_DEVICE):
            await kernel.delete_link(name)
        lines.append(f"links: {len(pods)} of pods and {VXLAN_DEVICE} removed")
        routes = await kernel.discard_routes()
        for prefix in routes:
            await kernel.delete_discard_route(prefix)
        lines.append(f"routes proto 77: {len(routes)} unreachable ones removed")
    return lines


def _restored(config: AgentConfig) -> Iterator[str]:
    """Sysctls have their former values."""
    for name, told in Ledger(config.state_dir / FILE).restore().items():
        yield f"{spelled(name)}: {told}"
