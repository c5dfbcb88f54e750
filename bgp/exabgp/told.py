"""A change of ExaBGP for sessions that BFD has found down.

12. A teardown with the subcode "BFD Down" (RFC 9384) is told by its NOTIFICATION, also where
    graceful restart was negotiated: then the router drops our routes (RFC 4724 4.1; ExaBGP does not
    offer RFC 8538). Stock closes such a session without a word, and the router keeps them.
    Where the session has just come up, stock says "Peer De-configured" whatever the subcode was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exabgp.bgp.message.notification import Notify
from exabgp.bgp.message.open.capability import Capability
from exabgp.reactor.peer import Peer

from bgp.exabgp.commands import BFD_DOWN


def change() -> None:
    """Make this change."""
    stock, stock_main = Peer.teardown, Peer._main  # noqa: SLF001 - it has no public name

    def teardown(self: Any, code: int, restart: bool = True) -> None:  # noqa: FBT001, FBT002 - as stock has it
        said = self.proto.negotiated.sent_open if self.proto else None
        if code == BFD_DOWN and said is not None:  # of this connection: the next one says it again
            said.capabilities.pop(Capability.CODE.GRACEFUL_RESTART, None)
        stock(self, code, restart)

    def main(self: Any) -> Iterator[Any]:
        if self._teardown:  # between the router's KEEPALIVE and this step
            raise Notify(6, self._teardown)
        yield from stock_main(self)

    Peer.teardown = teardown
    Peer._main = main  # noqa: SLF001
