"""Whether frames of the uplink meet XDP: SRv6, before the kernel makes packets of them.

Without it the tc program of the uplink does the same work. A driver that has no room for notes
beside frames, or another program of somebody's, is such a case, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from mesh.core.model import Finding
from mesh.datapath.findings import NO_XDP
from mesh.datapath.programs import Datapath
from mesh.datapath.settings import DatapathSettings

log = logging.getLogger(__name__)


def is_hardware(device: str) -> bool:
    """Whether it is a network card: a veth drops what its other end cannot take as a frame."""
    return Path(f"/sys/class/net/{device}/device").exists()


class UplinkXDP:
    """The XDP program of the uplink, as the configuration wants it."""

    def __init__(self, settings: DatapathSettings, node: str, datapath: Datapath) -> None:
        self._mode, self._node, self._datapath = settings.xdp, node, datapath
        self._refused = ""

    def is_wanted(self, device: str) -> bool:
        """Whether the program is to run there; then the datapath reads its notes."""
        return self._mode == "on" or (self._mode == "auto" and is_hardware(device))

    def begin(self, device: str, start: Callable[[bool], None]) -> None:
        """Let ``start`` load and attach the datapath, with notes to read or without.

        Where XDP is refused it starts once more: nobody of ours writes notes then, so whatever
        stands there is somebody's word.
        """
        wanted = self.is_wanted(device)
        start(wanted)
        if not self.attach(device) and wanted:
            start(False)  # noqa: FBT003 - as above

    def attach(self, device: str) -> bool:
        """After ``Datapath.attach``, which has the program behind this one; whether it runs."""
        self._refused = ""
        if not self.is_wanted(device):
            self._datapath.detach_xdp()
            return False
        try:
            self._datapath.attach_xdp(device)
        except OSError as error:
            self._refused = f"{device}: {error.strerror or error}"
            log.info("event=no_xdp device=%s error=%s", device, error)
            self._datapath.detach_xdp()
            return False
        return True

    def findings(self) -> Iterable[Finding]:
        """What the configuration asks for and the driver refuses."""
        if self._refused and self._mode == "on":
            name = f"node/{self._node}"
            yield Finding(NO_XDP, self._node, "datapath.xdp", self._refused, (name,))
