"""Nodes whose word counts when they say that a gateway does not answer. Pure but for its class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

#: Seconds for which a node that was cut off is no witness that others do not answer.
UNSURE_S = 3.0


def witnesses(node: str, silent_to: Mapping[str, Collection[str]]) -> list[str]:
    """The nodes that get no answer from a node and are believed.

    ``silent_to`` has by node which nodes get no answer from it. One of them is enough, unless more
    nodes get no answer from that one itself: a node that is cut off hears no other.
    """
    nodes = silent_to.get(node, ())
    return [one for one in nodes if len(silent_to.get(one, ())) <= len(nodes)]


class Witness:
    """What a node says of gateways that do not answer it.

    When all of several do not answer, the node is cut off itself. Afterwards it hears one after the
    other again, and would name those that it has not heard yet.
    """

    def __init__(self) -> None:
        self._unsure_until_s = 0.0

    def says(
        self, silent: tuple[IPv4Address, ...], gateways: Collection[IPv4Address], now_s: float
    ) -> tuple[IPv4Address, ...]:
        """The silent ones, unless all are, or were in the last ``UNSURE_S``."""
        if len(silent) == len(gateways) > 1:
            self._unsure_until_s = now_s + UNSURE_S
        return silent if now_s >= self._unsure_until_s else ()
