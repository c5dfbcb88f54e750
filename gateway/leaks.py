"""Packets of covered pods that have left without an egress address, as ``leak.h`` has counted them.

The counter is the datapath's and outlives agents. It is read when somebody asks: for ``meshgate
leak list``, and for the finding that names the pod.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.findings import LEAKED
from mesh.core.address import decode_address
from mesh.core.feature import AgentFeature, Maps
from mesh.core.model import IP, Finding, PodKey
from mesh.core.noun import Listing, Row
from mesh.core.reconcile import Loop

LEAK_MAP = "mg_leak"
#: How long a leak is a finding, in seconds after its last packet.
FINDING_S = 86_400


@dataclass(frozen=True, slots=True)
class Leaked:
    """All packets, and the last one: whose it was, its source as it left, when (monotonic, s)."""

    packets: int
    pod: IP
    source: IP
    destination: IP
    seen_s: float


class LeakAgent(AgentFeature):
    """``pod_of`` says whose an address is."""

    def __init__(self, node: str, pod_of: Callable[[IP], PodKey | None]) -> None:
        self._node, self._pod_of = node, pod_of
        self._maps: Maps | None = None

    def apply(self, loop: Loop, maps: Maps) -> None:  # noqa: ARG002 - it writes nothing
        self._maps = maps

    def leaked(self) -> Leaked | None:
        """What has leaked on this node; None: nothing has."""
        return leaked(self._maps.lookup(LEAK_MAP, 0)) if self._maps else None

    def listings(self) -> Mapping[str, Listing]:
        return {"leak": lambda: [leak_row(self._node, self.leaked())]}

    def findings(self) -> Iterable[Finding]:
        found = self.leaked()
        if found is None or time.monotonic() - found.seen_s > FINDING_S:
            return
        pod = self._pod_of(found.pod)
        name = f"{pod.namespace}/{pod.name}" if pod else str(found.pod)
        as_it_left = f" as {found.source}" if found.source != found.pod else ""
        text = (
            f"{found.packets} packets of covered pods have left this node without an egress "
            f"address, the last one of {name} ({found.pod}) to {found.destination}{as_it_left}"
        )
        yield Finding(LEAKED, f"{self._node}/agent", "leak", text, (f"node/{self._node}",))


def leaked(cpus: Any) -> Leaked | None:
    """The values of ``mg_leak``, one of each CPU, as one."""
    if cpus is None or not (packets := int(cpus["packets"].sum())):
        return None
    last = cpus[int(cpus["seen"].argmax())]
    pod, source, destination = (
        decode_address(last[name]) for name in ("pod", "source", "destination")
    )
    return Leaked(packets, pod, source, destination, int(last["seen"]) / 1e9)


def leak_row(node: str, found: Leaked | None) -> Row:
    """The row of ``leak list``; ``last`` is null where nothing has leaked."""
    last = {"source": str(found.source), "destination": str(found.destination)} if found else None
    return {"node": node, "packets": found.packets if found else 0, "last": last}
