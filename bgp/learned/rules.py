"""What an import rule says of a route, and which prefixes no rule may accept. Pure.

Rule 1: without a rule nothing is accepted; of several rules the first that matches decides.
Rule 2: a default route is accepted only by a rule that names 0.0.0.0/0 or ::/0 without lengths.
Rule 3: what is ours is never accepted: pools, service networks, egress addresses, node addresses.
        A shorter prefix around ours is: the longer one of ours is looked up first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network

from bgp.learned.rows import State
from bgp.peer import ImportRule, PrefixMatch
from mesh.core.model import Labels, Network
from mesh.core.received import Received

#: Networks that no packet is forwarded to (RFC 6890): loopback, link-local, multicast, mapped.
_NOT_ROUTED = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",
        "::1/128", "fe80::/10", "ff00::/8", "::ffff:0:0/96",
    )
)  # fmt: skip


class Ours:
    """Networks that are ours, with words for each; a look-up costs the different lengths."""

    def __init__(self, networks: Mapping[Network, str]) -> None:
        self._words = dict(networks)
        #: By IP version: length, bits behind it, and the networks by their first bits as a number.
        self._lengths: dict[int, list[tuple[int, int, dict[int, Network]]]] = {4: [], 6: []}
        for version, lengths in self._lengths.items():
            mine = [network for network in networks if network.version == version]
            for length in sorted({network.prefixlen for network in mine}):
                behind = (32 if version == 4 else 128) - length
                of_length = [network for network in mine if network.prefixlen == length]
                index = {int(one.network_address) >> behind: one for one in of_length}
                lengths.append((length, behind, index))

    def around(self, prefix: Network) -> Network | None:
        """The network of ours that the prefix is, or is a part of."""
        bits, first = prefix.prefixlen, int(prefix.network_address)
        for length, behind, index in self._lengths[prefix.version]:
            if length > bits:
                return None
            if (found := index.get(first >> behind)) is not None:
                return found
        return None

    def words(self, network: Network) -> str:
        """What the network is."""
        return self._words[network]


_NOWHERE = Ours(dict.fromkeys(_NOT_ROUTED, ""))


def refusal(prefix: Network, rule: ImportRule, ours: Ours) -> str:
    """Why a rule that accepts the prefix may not, in words; empty: it may."""
    if not prefix.prefixlen and not any(_is_default(one) for one in rule.prefixes):
        return f"a default route, and the rule does not name {prefix}"
    if (nowhere := _NOWHERE.around(prefix)) is not None:
        return f"nothing is forwarded to {nowhere}"
    if (own := ours.around(prefix)) is not None:
        part = "is" if own == prefix else f"is a part of {own},"
        return f"it {part} ours: {ours.words(own)}"
    return ""


def _is_default(match: PrefixMatch) -> bool:
    return not match.network.prefixlen and not match.le


def judged(
    prefix: Network, row: Received, rules: Sequence[ImportRule], ours: Ours
) -> tuple[State, str, Labels]:
    """What the rules say of a route: accepted (``USED``) with labels, or in words why not."""
    if not rules:
        text = "the BGPPeer has no import rules, so nothing is accepted"
        return State.NOT_ACCEPTED, text, ()
    for number, rule in enumerate(rules):
        if not matches(rule, prefix, row):
            continue
        if not rule.accept:
            return State.NOT_ACCEPTED, f"spec.import[{number}] refuses it", ()
        if why := refusal(prefix, rule, ours):
            return State.PROTECTED, why, ()
        return State.USED, "", labels_of(rule, row)
    return State.NOT_ACCEPTED, "no import rule matches it", ()


def matches(rule: ImportRule, prefix: Network, row: Received) -> bool:
    """Whether prefix and communities are those of the rule; an empty list is about all.

    Of several communities one is enough.
    """
    if rule.prefixes and not any(is_matched(one, prefix) for one in rule.prefixes):
        return False
    return not rule.communities or not set(rule.communities).isdisjoint(communities_of(row))


def is_matched(match: PrefixMatch, prefix: Network) -> bool:
    """Whether the prefix is in the network and has one of the lengths."""
    if prefix.version != match.network.version or not match.ge <= prefix.prefixlen <= match.le:
        return False
    return _is_inside(prefix, match.network)


def communities_of(row: Received) -> tuple[str, ...]:
    """Communities of all three kinds."""
    return (*row.communities, *row.large, *row.extended)


def labels_of(rule: ImportRule, row: Received) -> Labels:
    """The labels into which the rule turns communities; of two with one key the first counts."""
    there = communities_of(row) if rule.labels else ()
    if not there:
        return ()
    return merged([tuple((key, value) for one, key, value in rule.labels if one in there)])


def merged(labels: Iterable[Labels]) -> Labels:
    """One label for each key, sorted; the first one of a key counts."""
    found: dict[str, str] = {}
    for each in labels:
        for key, value in each:
            found.setdefault(key, value)
    return tuple(sorted(found.items()))


def _is_inside(prefix: Network, network: Network) -> bool:
    return prefix.prefixlen >= network.prefixlen and prefix.network_address in network
