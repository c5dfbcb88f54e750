"""Whether the host's firewall drops what Meshgate leaves to the kernel.

Most packets pass netfilter by: they are redirected at tcx. Two kinds do not: overlay packets that
the kernel has to open (aggregates of UDP, fragments), and what a pod sends out of the mesh without
an egress policy, with the answers to it. One packet of each kind is followed through the chains of
nftables, iptables-nft among them; ``iptables`` brings the chains of the old one. A rule whose match
cannot be judged here may accept the packet, so only a drop that is certain is told. ``judged`` is
pure; ``look`` asks ``nft``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Any

from mesh.host.command import said

Rules = Sequence[Mapping[str, Any]]
#: Chains by family, table and name.
ChainKey = tuple[str, str, str]

#: Chains that are followed at most.
CHAINS = 64


class Verdict(Enum):
    """What becomes of a packet in a chain."""

    DROP = auto()
    ACCEPT = auto()
    ON = auto()  # the chain's end, or a return
    UNSURE = auto()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules; ``hook`` and ``policy`` are of base chains."""

    key: ChainKey
    rules: Rules = ()
    hook: str = ""
    policy: str = "accept"


@dataclass(frozen=True, slots=True)
class Probe:
    """A packet of a kind: what is known of it, what its drop means, and the rule that is missing.

    ``known`` is by the names of nft's expressions; ``old_rule`` is the rule for iptables.
    """

    hook: str
    means: str
    rule: str
    old_rule: str
    known: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A chain that certainly drops a kind of packets."""

    chain: str
    text: str


def probes(uplink: str, pods: str, port: int) -> list[Probe]:
    """One packet of each kind; ``pods`` is how names of the pods' devices begin.

    Without ``pods``, beside another CNI, what pods forward is that one's affair.
    """
    new = {"ct state": "new", "meta iifname": uplink}
    overlay = {"meta l4proto": "udp", "udp dport": port, "meta nfproto": "ipv4"}
    to_pod = {"meta iifname": uplink, "meta oifname": f"{pods}0", "meta l4proto": "tcp"}
    from_pod = {"meta iifname": f"{pods}0", "meta oifname": uplink, "meta l4proto": "tcp"}
    taken = [
        Probe(
            "input",
            "overlay packets that the kernel has to open are lost: UDP that a sender has merged, "
            "and what was fragmented on its way between nodes",
            f'iifname "{uplink}" udp dport {port} accept',
            f"-i {uplink} -p udp --dport {port} -j ACCEPT",
            new | overlay,
        ),
    ]
    forwarded = [
        *(
            Probe(
                "forward",
                f"what pods of this node send out of the mesh over {family} without an egress "
                "policy is lost",
                f'iifname "{pods}*" accept',
                f"-i {pods}+ -j ACCEPT",
                new | from_pod | {"meta nfproto": family.lower()},
            )
            for family in ("IPv4", "IPv6")
        ),
        *(
            Probe(
                "forward",
                f"answers over {family} to what pods of this node send out of the mesh without an "
                "egress policy are lost",
                f'oifname "{pods}*" ct state established,related accept',
                f"-o {pods}+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                to_pod | {"ct state": "established", "meta nfproto": family.lower()},
            )
            for family in ("IPv4", "IPv6")
        ),
    ]
    return taken + forwarded if pods else taken


_FAMILIES = {"ipv4": ("ip", "inet"), "ipv6": ("ip6", "inet")}


#: How a chain is named, and the mend of a drop in it.
Words = Callable[[ChainKey, Probe], tuple[str, str]]


def _nft_words(key: ChainKey, probe: Probe) -> tuple[str, str]:
    family, table, name = key
    return f"table {family} {table} chain {name}", f"insert into it `{probe.rule}`"


def judged(
    chains: Mapping[ChainKey, Chain], asked: Iterable[Probe], words: Words = _nft_words
) -> Iterator[Stopped]:
    """The base chains that certainly drop a packet; each drops for all, whatever others accept.

    Of a chain and family the first packet that is dropped is told.
    """
    told: set[tuple[ChainKey, object]] = set()
    for probe in asked:
        families = _FAMILIES[str(probe.known["meta nfproto"])]
        for chain in chains.values():
            if chain.hook != probe.hook or chain.key[0] not in families:
                continue
            verdict = _walk(chains, chain.key, probe.known, CHAINS)
            by_policy = verdict is Verdict.ON and chain.policy == "drop"
            about = chain.key, probe.known["meta nfproto"]
            if (verdict is Verdict.DROP or by_policy) and about not in told:
                told.add(about)
                place, mend = words(chain.key, probe)
                how = "by its policy" if by_policy else "by a rule"
                text = f"{place} of the host's firewall drops {how}: {probe.means}; {mend}"
                yield Stopped(place, text)


def _walk(
    chains: Mapping[ChainKey, Chain], key: ChainKey, known: Mapping[str, object], depth: int
) -> Verdict:
    chain = chains.get(key)
    if chain is None or not depth:
        return Verdict.UNSURE
    for rule in chain.rules:
        verdict = _of_rule(chains, key, rule.get("expr", ()), known, depth)
        if verdict is not None:
            return verdict
    return Verdict.ON


def _of_rule(
    chains: Mapping[ChainKey, Chain],
    key: ChainKey,
    parts: Sequence[Mapping[str, Any]],
    known: Mapping[str, object],
    depth: int,
) -> Verdict | None:
    """What a rule does; None: the next one is asked."""
    sure = True
    for part in parts:
        ((kind, about),) = part.items()
        if kind in _SIDE_EFFECTS:
            continue
        if kind == "match":
            fits = _fits(about, known)
            if fits is False:
                return None
            sure = sure and fits is True
        elif kind == "vmap":
            verdict = _vmap(chains, key, about, known, depth)
            return verdict if sure or verdict is None else _doubted(verdict)
        elif kind in _VERDICTS or kind in ("jump", "goto"):
            verdict = _verdict(chains, key, part, known, depth)
            return verdict if sure else _doubted(verdict)
        else:
            sure = False
    return None


_SIDE_EFFECTS = ("counter", "log", "mangle", "comment")
_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.ON,
}


def _doubted(verdict: Verdict | None) -> Verdict | None:
    """What a rule does that may not be meant: a drop may be none, all else may be."""
    return None if verdict in (None, Verdict.DROP) else Verdict.UNSURE


def _verdict(
    chains: Mapping[ChainKey, Chain],
    key: ChainKey,
    part: Mapping[str, Any],
    known: Mapping[str, object],
    depth: int,
) -> Verdict | None:
    ((kind, about),) = part.items()
    if kind in _VERDICTS:
        return _VERDICTS[kind]
    if kind not in ("jump", "goto"):
        return Verdict.UNSURE
    verdict = _walk(chains, (*key[:2], about["target"]), known, depth - 1)
    if verdict is Verdict.ON:
        return None if kind == "jump" else Verdict.ON
    return verdict


def _vmap(
    chains: Mapping[ChainKey, Chain],
    key: ChainKey,
    about: Mapping[str, Any],
    known: Mapping[str, object],
    depth: int,
) -> Verdict | None:
    value, listed = known.get(_name(about["key"])), about["data"]
    if value is None or not isinstance(listed, Mapping):
        return Verdict.UNSURE
    for element, verdict in listed.get("set", ()):
        fits = _is_in(value, element)
        if fits is None:
            return Verdict.UNSURE
        if fits:
            return _verdict(chains, key, verdict, known, depth)
    return None


def _fits(match: Mapping[str, Any], known: Mapping[str, object]) -> bool | None:
    """Whether a packet fits a match; None: who knows."""
    value, op = known.get(_name(match["left"])), match["op"]
    if value is None or op not in ("==", "!=", "in"):
        return _other_protocol(match["left"], known) if op == "==" else None
    fits = _is_in(value, match["right"])
    return fits if fits is None or op != "!=" else not fits


def _other_protocol(left: Any, known: Mapping[str, object]) -> bool | None:
    """A field of another protocol than the packet's: it has none."""
    protocol = left.get("payload", {}).get("protocol") if isinstance(left, Mapping) else None
    family = {"ip": "ipv4", "ip6": "ipv6"}.get(str(protocol))
    if family and known.get("meta nfproto") != family:
        return False
    carried = known.get("meta l4proto")
    return False if protocol in ("tcp", "udp", "sctp", "icmp") and carried != protocol else None


def _name(expression: Any) -> str:
    if not isinstance(expression, Mapping):
        return ""
    ((kind, about),) = list(expression.items())[:1] or [("", {})]
    if kind == "payload":
        return f"{about.get('protocol', '')} {about.get('field', '')}"
    key = about.get("key", "") if isinstance(about, Mapping) else ""
    return f"{kind} {key}"


def _is_in(value: object, listed: Any) -> bool | None:
    """Whether a value is, or is one of, what a rule lists; None: who knows."""
    if isinstance(listed, Mapping):
        return _is_in(value, listed["set"]) if "set" in listed else _in_range(value, listed)
    if isinstance(listed, list):
        found = [_is_in(value, one) for one in listed]
        return True if True in found else None if None in found else False
    if isinstance(listed, str) and isinstance(value, str):
        return None if listed.startswith("@") else fnmatchcase(value, listed)
    return None if isinstance(listed, str) else bool(value == listed)


def _in_range(value: object, listed: Mapping[str, Any]) -> bool | None:
    low, high = listed.get("range", (None, None))
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        return low <= value <= high
    return None


# --- Asking nft -----------------------------------------------------------------------------------


async def look(uplink: str, pods: str, port: int) -> list[Stopped]:
    """What the firewall of this host stops; nothing where nft is not installed.

    Raises OSError when nft does not answer.
    """
    if shutil.which("nft") is None:
        return []
    asked = probes(uplink, pods, port)
    return list(judged(await _chains({probe.hook for probe in asked}), asked))


async def _chains(hooks: set[str]) -> dict[ChainKey, Chain]:
    """The base chains of the hooks, and those to which they lead, with their rules."""
    listed = [row["chain"] for row in await _nft("list", "chains") if "chain" in row]
    heads = {(one["family"], one["table"], one["name"]): one for one in listed}
    due = [
        key for key, one in heads.items() if one.get("type") == "filter" and one["hook"] in hooks
    ]
    found: dict[ChainKey, Chain] = {}
    while due and len(found) < CHAINS:
        key = due.pop(0)
        if key in found:
            continue
        rules = [row["rule"] for row in await _nft("list", "chain", *key) if "rule" in row]
        head = heads[key]
        found[key] = Chain(key, rules, head.get("hook", ""), head.get("policy", "accept"))
        due += [(*key[:2], name) for name in _targets(rules) if (*key[:2], name) in heads]
    return found


def _targets(value: Any) -> Iterator[str]:
    """Names of chains to which rules lead."""
    if isinstance(value, list):
        for one in value:
            yield from _targets(one)
    elif isinstance(value, Mapping):
        for kind, about in value.items():
            if kind in ("jump", "goto") and isinstance(about, Mapping) and "target" in about:
                yield str(about["target"])
            else:
                yield from _targets(about)


async def _nft(*words: str) -> list[dict[str, Any]]:
    text = await answer_of("nft", "-j", *words)  # empty: the chain has gone, or no nftables here
    rows: list[dict[str, Any]] = json.loads(text or b'{"nftables": []}')["nftables"]
    return rows


async def answer_of(*command: str) -> bytes:
    """What a command prints; nothing when it fails.

    Raises OSError when it does not end.
    """
    status, text = await said(*command)
    return b"" if status else text
