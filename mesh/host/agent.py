"""What a node's agent sets on its host, and what it watches there.

Walk: ``Host.prepare`` before the datapath is loaded; then ``run`` looks whether settings hold,
whether the default routes are there, and whether the firewall stops our traffic.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from mesh.core.model import Finding
from mesh.core.noun import Listing, Row
from mesh.core.ticks import tick
from mesh.host import firewall, iptables
from mesh.host.findings import FIREWALL, NOT_SET, ROUTE_GONE
from mesh.host.forwarding import Interface, Step, steps
from mesh.host.ledger import Ledger, Sysctls
from mesh.host.ports import with_ports
from mesh.host.settings import (
    ACCEPT_RA,
    FORWARD_6,
    FORWARD_ALL_6,
    RESERVED_PORTS,
    SETTINGS,
    Undo,
    why,
)
from mesh.kernel import DefaultRoute, Kernel

log = logging.getLogger(__name__)

FILE = "host.json"
#: Seconds between looks at settings and routes, and at the firewall, whose list may be long.
LOOK_S, FIREWALL_S = 10.0, 20.0
#: How many times its own cost a look at the firewall rests: a proxy has 10,000 rules. The cost is
#: processor time of nft and iptables-save: others may have the processor while they run.
RESTS = 200
#: Looks in a row at which a next hop does not answer, until that is said.
PATIENCE = 3
_DEVICES = Path("/proc/sys/net/ipv6/conf")
#: Not /sys/class/net: a mounted /sys keeps the network namespace in which it was mounted.
_LINKS = Path("/proc/sys/net/ipv4/conf")


def spelled(name: str) -> str:
    """A sysctl as people write it: dots, and a slash for a dot in a device's name."""
    return name.translate(str.maketrans("/.", "./"))


def _of_children_s() -> float:
    """Processor time of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Host:
    """The host of ``node``; ``pods`` is how names of the pods' devices begin.

    ``port`` is that of the overlay. ``uplink`` is known when the kernel was asked, with ``auto``.
    """

    def __init__(
        self, node: str, state_dir: Path, kernel: Kernel, uplink: str, pods: str, port: int
    ) -> None:
        self._node, self._kernel = node, kernel
        self.uplink, self._pods, self._port = uplink, pods, port
        self.ledger = Ledger(state_dir / FILE)
        self._lost: dict[str, str] = {}  # by family: what is wrong with its default route
        self._silent: dict[str, int] = {}  # looks in a row, by family
        self._stopped: list[firewall.Stopped] = []

    def prepare(
        self,
        devices: Collection[str],
        routes: Mapping[str, DefaultRoute | None],
        reserved: range = range(0),
    ) -> None:
        """Let ``devices`` forward, the uplink among them; no default route is lost by that.

        ``routes`` are the default routes of now, ``reserved`` the ports that stand for pods.
        Raises OSError when the former values cannot be written down.
        """
        self.ledger.settle()
        self.ledger.routes |= {family: str(hop) for family, hop in routes.items() if hop}
        sysctls = self.ledger.sysctls
        known = {name: _device(sysctls, name) for name in _names() if name != "all"}
        all_forward = sysctls.read(FORWARD_ALL_6)
        wanted = steps(all_forward != "0", known, devices, self.uplink)
        self.ledger.apply(
            step for step in wanted if all_forward or not step.name.startswith("net/ipv6")
        )
        if reserved:
            before = sysctls.read(RESERVED_PORTS) or ""
            self.ledger.apply([Step(RESERVED_PORTS, with_ports(before, reserved))])

    async def run(self) -> None:
        """Look for ever."""
        due = 0.0
        while True:
            try:
                await self.look_at_routes()
                if (began := time.monotonic()) >= due:
                    before = _of_children_s()
                    self._stopped = await self._look_at_firewall()
                    due = began + max(FIREWALL_S, RESTS * (_of_children_s() - before))
            except OSError as error:
                log.warning("event=host_not_asked reason=%s", error)
            await tick(LOOK_S)

    async def _look_at_firewall(self) -> list[firewall.Stopped]:
        asked = self.uplink, self._pods, self._port
        return [*await firewall.look(*asked), *await iptables.look(*asked)]

    async def look_at_routes(self) -> None:
        """Compare the default routes with those that the host had."""
        routes = await self.default_routes()
        for family, before in self.ledger.routes.items():
            hop = routes.get(family)
            silent = hop is not None and await self._kernel.is_silent(hop)
            self._silent[family] = self._silent.get(family, 0) + 1 if silent else 0
            if hop is None:
                self._lost[family] = f"{before} was the default route of IPv{family}, and is gone"
            elif self._silent[family] >= PATIENCE:
                self._lost[family] = f"the next hop of IPv{family}'s default route, {hop}, "
                self._lost[family] += "does not answer on its link"
            else:
                self._lost.pop(family, None)

    async def default_routes(self) -> dict[str, DefaultRoute | None]:
        """Default routes by family."""
        return {str(version): await self._kernel.default_route(version) for version in (4, 6)}

    # What others see

    def findings(self) -> Iterable[Finding]:
        """Settings that are not as they should be, routes that are gone, rules in the way."""
        place, about = f"{self._node}/agent", (f"node/{self._node}",)
        for name, wanted in self.ledger.wanted.items():
            now, failed = self.ledger.sysctls.read(name), self.ledger.failed.get(name, "")
            if now != wanted:
                is_now = f"is {now}, not {wanted}" if now is not None else "is not there"
                because = f" ({failed})" if failed else " (another program has changed it)"
                text = f"{spelled(name)} {is_now}{because}: {why(name)}; set it to {wanted}"
                yield Finding(NOT_SET, place, spelled(name), text, about)
        for family, text in self._lost.items():
            means = f"{text}: what leaves the mesh through this host goes nowhere; add the route"
            yield Finding(ROUTE_GONE, place, f"default IPv{family}", means, about)
        for one in self._stopped:
            yield Finding(FIREWALL, place, one.chain, one.text, about)

    def listings(self) -> Mapping[str, Listing]:
        return {"host": self.rows}

    def rows(self) -> list[Row]:
        """``meshgate host list``: sysctls with their values, and what else is set."""
        return [{"node": self._node, **row} for row in (*self._sysctl_rows(), *self._other_rows())]

    def _sysctl_rows(self) -> Iterator[Row]:
        for name in self.ledger.wanted:
            now, note = self.ledger.sysctls.read(name), self.ledger.notes.get(name)
            was = note.was if note else now
            yield {"setting": spelled(name), "was": was, "now": now, "why": why(name)}

    def _other_rows(self) -> Iterator[Row]:
        pods = sum(name.startswith(self._pods) for name in _names(_LINKS))
        for one in SETTINGS:
            of_pod = "{pod}" in one.name or one.name.startswith("links ")
            if of_pod and not self._pods:
                continue  # beside another CNI pods have its devices
            if "{pod}" in one.name:
                name = spelled(one.name).replace("{pod}", f"{self._pods}*")
                now = f"{one.value} on {pods} devices"
            elif one.undo is Undo.VALUE:
                continue  # a sysctl, which is shown where it is wanted
            else:
                name = one.name
                now = str(pods) if one.name.startswith("links ") else one.value
            yield {"setting": name, "was": None, "now": now, "why": one.why}


def _names(folder: Path = _DEVICES) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _device(sysctls: Sysctls, name: str) -> Interface:
    """A device as it is; ``all`` is no device."""
    forwarding = sysctls.read(FORWARD_6.format(device=name))
    return Interface(forwarding or "", sysctls.read(ACCEPT_RA.format(device=name)) or "")
