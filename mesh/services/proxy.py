"""Whether a kube-proxy translates services on this node.

It is known by its rules: a table ``kube-proxy`` of nftables, or a chain ``KUBE-SERVICES`` of
iptables; and by its port for health checks, before it has written any. A process of that name says
nothing: it may be another node's on the same machine.

Source: kubernetes/pkg/proxy/nftables/proxier.go (kubeProxyTable), pkg/proxy/iptables/proxier.go
(kubeServicesChain), pkg/cluster/ports/ports.go (ProxyHealthzPort).
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from mesh.core.table import Table
from mesh.core.ticks import tick
from mesh.host.command import DEADLINE_S, said
from mesh.services.settings import ServicesSettings

log = logging.getLogger(__name__)

#: The row of the table of what was found.
KUBE_PROXY = "kube-proxy"
_CHAIN = "KUBE-SERVICES"
#: iptables of the kernel's older interface, whose rules nftables does not list.
_LEGACY = ("iptables-legacy", "ip6tables-legacy")
HEALTH_PORT = 10256
#: Seconds between looks.
LOOK_S = 15.0

#: Where a kube-proxy was found, in words; empty: nowhere. Raises OSError.
Look = Callable[[], Awaitable[str]]


def found_in(listed: Iterable[Mapping[str, Any]]) -> str:
    """Where its rules are among the chains that ``nft -j list chains`` prints; empty: none."""
    for row in listed:
        chain = row.get("chain", {})
        family, table = chain.get("family", ""), chain.get("table", "")
        if table == KUBE_PROXY:
            return f"table {family} {table}"
        if chain.get("name") == _CHAIN:
            return f"chain {_CHAIN} of table {family} {table}"
    return ""


async def look() -> str:
    """Where a kube-proxy is on this host, in words; empty: nowhere. Raises OSError."""
    if shutil.which("nft"):
        _, listed = await said("nft", "-j", "list", "chains")
        if place := found_in(json.loads(listed or b'{"nftables": []}')["nftables"]):
            return place
    for command in _LEGACY:
        if shutil.which(command):
            code, _ = await said(command, "-w", "1", "-t", "nat", "-S", _CHAIN)
            if code == 0:
                return f"chain {_CHAIN} of {command}"
    return f"port {HEALTH_PORT}" if await _answers(HEALTH_PORT) else ""


async def _answers(port: int) -> bool:
    """Whether a program of this host listens on a port."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


class Proxy:
    """``table`` has the row ``kube-proxy`` while one owns the services of this node.

    ``beside`` another CNI somebody always does: that one, or a kube-proxy.
    """

    def __init__(
        self, settings: ServicesSettings, ask: Look = look, *, beside: bool = False
    ) -> None:
        self.table: Table[str, bool] = Table("kube-proxy")
        #: Where one was found, in words; empty: nowhere; None: nobody has looked.
        self.place: str | None = None
        self.configured = settings.kube_proxy
        #: Whether what the table says is known.
        self.looked = beside or self.configured != "auto"
        self._ask, self._beside = ask, beside
        if self.looked:
            self._set(beside or bool(self.configured))

    @property
    def owns(self) -> bool:
        """Whether a kube-proxy has the services of this node."""
        return KUBE_PROXY in self.table.rows

    async def look(self) -> None:
        """Look once; without an answer, what was known stays."""
        if self._beside:
            return
        try:
            self.place = await self._ask()
        except (OSError, ValueError, KeyError) as error:
            log.warning("event=kube_proxy_not_looked_for reason=%s", error)
        self.looked = True
        if self.configured == "auto":
            self._set(bool(self.place))

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await tick(LOOK_S)

    def _set(self, owns: bool) -> None:  # noqa: FBT001 - one value
        self.table.replace({KUBE_PROXY: True} if owns else {})
