"""Spreading pods of a node over the addresses of a policy before one fills. Pure but for ``Lent``.

When 60 % of what a node can have of an address's ports is lent to its pods, further pods take the
policy's next address. A pod with ports of an address stays with it (RFC 4787 REQ-2, RFC 6888
REQ-2: all its connections show one address), and so do live connections, whatever the pod has next.

A pod is led by the *words* of its class: names of policies, each with the addresses that the pod
takes before all others of the policy. Without one it takes the first that can be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from gateway.history import RUN_PORTS
from gateway.policy import EgressPolicy
from mesh.core.model import IP
from mesh.core.table import Table

#: Of the ports that a node can have of an address; from there on further pods take the next one.
CROWDED_PERCENT = 60
_MARK = "@"  # in no name of an object


def word_of(policy: str, leads: Iterable[IP]) -> str:
    """A policy whose pods take these addresses first."""
    return _MARK.join((policy, *map(str, leads)))


def policy_of(word: str) -> str:
    """The policy of a word."""
    return word.partition(_MARK)[0]


def leads(word: str, addresses: Iterable[IP]) -> list[IP]:
    """The addresses in the order in which pods with the word take them."""
    first = word.split(_MARK)[1:]
    return sorted(addresses, key=lambda one: str(one) not in first)


def has_several(policy: EgressPolicy) -> bool:
    """Whether the policy has several addresses of a family."""
    families = [one.version for one in policy.addresses]
    return len(families) > len({*families})


@dataclass(frozen=True, slots=True)
class Filling:
    """What a node knows of addresses: which new connections may take, which are for no further pod.

    ``lent`` says how many runs of each are lent.
    """

    usable: Callable[[IP], bool]
    full: Collection[IP]
    lent: Mapping[IP, int]


def words_of(
    names: tuple[str, ...],
    before: tuple[str, ...],
    policies: Mapping[str, EgressPolicy],
    held: Collection[IP],
    node: Filling,
) -> tuple[str, ...]:
    """The words of a pod that these policies cover; ``before`` are its words until now.

    ``held`` are addresses of which the pod has ports.
    """
    former = {policy_of(word): word for word in before}
    return tuple(
        word_of(name, _leads_of(policies[name], former.get(name), held, node))
        if name in policies
        else name
        for name in names
    )


def _leads_of(
    policy: EgressPolicy, before: str | None, held: Collection[IP], node: Filling
) -> list[IP]:
    """Of each family the address that the pod takes; none where that is the first one."""
    found = []
    for family in (4, 6):
        able = [a for a in policy.addresses if a.version == family and node.usable(a)]
        if len(able) > 1:
            mine = _lead(able, before, held, node)
            found += [mine] if mine != able[0] else []
    return found


def _lead(able: list[IP], before: str | None, held: Collection[IP], node: Filling) -> IP:
    """The address of a pod: one of which it has ports, or else one that is not full.

    When all are full a pod stays where it was, and a new one takes the address with most room.
    """
    former = leads(before or "", able)[0]
    kept = [one for one in able if one in held]
    if kept:
        return former if former in kept else kept[0]
    if former not in node.full:
        return former
    room = next((one for one in able if one not in node.full), None)
    if room or before is not None:
        return room or former
    return min(able, key=lambda one: node.lent.get(one, 0))


def is_full(lent: int, own_blocks: int, most_blocks: int, block_size: int) -> bool:
    """Whether an address of which so many runs are lent is for no further pod of the node.

    So it is, too, when the node uses more than half of its spare block: it gets blocks no faster
    than it needs them, or no more of them.
    """
    ports, half = lent * RUN_PORTS, block_size // 2
    if ports * 100 >= CROWDED_PERCENT * most_blocks * block_size:
        return True
    return own_blocks > 1 and ports > own_blocks * block_size - half


def crowded_blocks(most_blocks: int) -> int:
    """How many blocks of an address a node uses that is crowded; with one block it never is."""
    return max(-(-CROWDED_PERCENT * most_blocks // 100), 2)


class Lent:
    """Which runs are lent now: ``held`` by address of the pod, ``runs`` counted by address."""

    def __init__(self) -> None:
        self.held: Table[IP, tuple[IP, ...]] = Table("egress addresses of pod")
        self.runs: Table[IP, int] = Table("runs lent of egress address")
        self._pod_of: dict[tuple[IP, int], IP] = {}
        self._of_pod: dict[IP, Counter[IP]] = {}

    def begin(self, lent: Iterable[tuple[IP, int, IP]]) -> None:
        """All runs that are lent: address, number and pod of each."""
        self._pod_of.clear()
        self._of_pod.clear()
        for address, number, pod in lent:
            self._lend(address, number, pod)
        self.held.replace({pod: _addresses(of) for pod, of in self._of_pod.items()})
        counts = Counter(address for address, _ in self._pod_of)
        self.runs.replace(dict(counts))

    def take(self, lines: Iterable[tuple[IP, int, IP, bool]]) -> None:
        """What has been lent since, or returned, in its order."""
        pods: set[IP] = set()
        counts: Counter[IP] = Counter()
        for address, number, pod, lent in lines:
            before = self._return(address, number)
            if lent:
                self._lend(address, number, pod)
            counts[address] += lent - (before is not None)
            pods |= {pod} if before is None else {pod, before}
        self.held.upsert({one: _addresses(self._of_pod[one]) for one in pods & self._of_pod.keys()})
        self.held.delete(pods - self._of_pod.keys())
        now = {address: self.runs.rows.get(address, 0) + n for address, n in counts.items() if n}
        self.runs.upsert({address: count for address, count in now.items() if count > 0})
        self.runs.delete(address for address, count in now.items() if count <= 0)

    def _lend(self, address: IP, number: int, pod: IP) -> None:
        self._pod_of[address, number] = pod
        self._of_pod.setdefault(pod, Counter())[address] += 1

    def _return(self, address: IP, number: int) -> IP | None:
        pod = self._pod_of.pop((address, number), None)
        if pod is None:
            return None
        held = self._of_pod[pod]
        held[address] -= 1
        if not held[address]:
            del held[address]
        if not held:
            del self._of_pod[pod]
        return pod


def _addresses(held: Mapping[IP, int]) -> tuple[IP, ...]:
    return tuple(sorted(held, key=lambda one: (one.version, int(one))))
