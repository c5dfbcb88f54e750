"""A node whose routes both ways can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.interop.speaker.node import Node


class RibsNode(Node):
    module = "tests.interop.speaker.ribs_driver"

    def received(self) -> dict[str, Any]:
        """Rows by ``PEER [RD] PREFIX``."""
        return dict(self.said().get("received", {}))

    def sent(self) -> dict[str, Any]:
        return dict(self.said().get("sent", {}))

    def codes(self) -> set[str]:
        return {code for code, _ in self.said().get("findings", ())}

    def state(self, peer: str) -> str:
        return str(self.said().get("states", {}).get(peer, [""])[0])

    def has(self, *rows: str) -> Callable[[], bool]:
        """Whether exactly these were received."""
        return lambda: set(self.received()) == set(rows)


def attributes(row: dict[str, Any]) -> dict[str, Any]:
    """What is not as always."""
    names = ("next_hop", "as_path", "communities", "large", "extended", "med", "local_preference")
    return {name: row[name] for name in names if row[name] not in (None, [])}
