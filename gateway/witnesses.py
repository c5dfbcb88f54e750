"""Nodes whose word counts when they say that a gateway does not answer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def witnesses(node: str, silent_to: Mapping[str, Collection[str]]) -> list[str]:
    """The nodes that get no answer from a node and are believed.

    ``silent_to`` has by node which nodes get no answer from it. One of them is enough, unless more
    nodes get no answer from that one itself: a node that is cut off hears no other.
    """
    nodes = silent_to.get(node, ())
    return [one for one in nodes if len(silent_to.get(one, ())) <= len(nodes)]
