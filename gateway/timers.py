"""Timers of egress policies, numbered for the connections of a node. Pure.

A connection notes a small number when it opens, and the sweep looks the row up by it
(``bpf/include/timers.h``). The number belongs to the timers, not to a policy: policies that say the
same share it, and what a policy says anew counts for its new connections. A number that no policy
uses keeps its row as long as connections may have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from gateway.findings import TIMERS_FULL
from gateway.policy import EgressPolicy, Timers
from mesh.core.model import Finding

#: ``TIMERS_MOST`` of ``enum connection_timers``: numbers that a connection has room for.
MOST = 63
#: Seconds without a connection that the sweep has met, after which a number means something else.
UNUSED_S = 60.0


def timer_numbers(
    policies: Iterable[EgressPolicy],
    before: Mapping[Timers, int],
    is_unused: Callable[[int], bool],
) -> dict[Timers, int]:
    """The number of each of the policies' timers, from the first policy on; and former ones.

    Timers for which no number is left are not in it: the limits of all connections count.
    """
    wanted = dict.fromkeys(one.timers for one in policies if one.timers != Timers())
    numbers = dict(before)
    gone = iter([timers for timers in before if timers not in wanted])
    free = iter(sorted({*range(1, MOST + 1)} - {*before.values()}))
    for timers in wanted:
        if timers in numbers:
            continue
        number = next(free, None) or _given_back(numbers, gone, is_unused)
        if number:
            numbers[timers] = number
    return numbers


def _given_back(
    numbers: dict[Timers, int], gone: Iterator[Timers], is_unused: Callable[[int], bool]
) -> int | None:
    """The number of timers that no policy and no connection has any more; it is in no row then."""
    for timers in gone:
        if is_unused(numbers[timers]):
            return numbers.pop(timers)
    return None


def findings(policies: Iterable[EgressPolicy], numbers: Mapping[Timers, int]) -> Iterator[Finding]:
    """Policies whose timers have no number on this node."""
    for policy in policies:
        if policy.timers != Timers() and policy.timers not in numbers:
            text = (
                f"{policy.name}: connections of this node have {MOST} other sets of timers "
                "already: the usual timers count"
            )
            yield Finding(
                TIMERS_FULL, policy.origin, "spec.timers", text, (f"egress/{policy.name}",)
            )
