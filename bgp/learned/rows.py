"""Rows of learned routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address

from mesh.core.model import IP, Labels, Network


class State(StrEnum):
    """What becomes of a received route."""

    USED = "used"
    NOT_ACCEPTED = "not accepted"  # no rule accepts it
    PROTECTED = "protected"  # a rule accepts it, and none may
    UNREACHED = "unreached"  # its next hop is on no link of the node
    SHADOWED = "shadowed"  # another route, or a network of the node, comes first


@dataclass(frozen=True, slots=True)
class LearnedKey:
    """A prefix that a peer has sent; ``vrf`` is empty for unicast routes."""

    prefix: Network
    peer: IP
    vrf: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """A table of 100,000 rows asks each key for its hash ten times a change."""
        object.__setattr__(self, "_hash", hash((self.prefix, self.peer, self.vrf)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Learned:
    """A received route, and what becomes of it; ``reason`` says in words why it is not used.

    ``ifindex`` is the device on whose link the next hop is, 0 when the route is not used.
    """

    next_hop: IP
    state: State = State.USED
    reason: str = ""
    communities: tuple[str, ...] = ()
    labels: Labels = ()
    sid: IPv6Address | None = None
    ifindex: int = 0

    @property
    def used(self) -> bool:
        """Whether packets take it."""
        return self.state is State.USED
