"""What the old iptables drops: its rules as those of nftables, so that one function judges both.

iptables-nft writes into nftables, which ``firewall`` reads. The old one (``iptables-legacy``, on
Debian and Alpine) has tables of its own in the kernel, and a host may have both. ``chains`` is
pure; ``look`` asks ``iptables-legacy-save``. It asks for a table only when the kernel has it
already, because the question would make it.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.host.firewall import Chain, ChainKey, Probe, Stopped, Words, answer_of, judged, probes

Part = Mapping[str, Any]

_TABLE = "filter"
_HOOKS = {"INPUT": "input", "FORWARD": "forward"}
#: A part of a rule that is not known here: whether it fits is unsure.
_UNKNOWN: Part = {"xt": None}
#: Targets after which the next rule is asked.
_GO_ON = ("LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "TOS", "DSCP", "SET", "CLASSIFY")
_ENDS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_PROTOCOLS = {"6": "tcp", "17": "udp", "1": "icmp", "132": "sctp"}


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two programs, the kernel's list of its tables, and its family in nftables."""

    command: str
    tables: Path
    family: str
    shown: str


FAMILIES = (
    Family("iptables-legacy", Path("/proc/net/ip_tables_names"), "ip", "IPv4"),
    Family("ip6tables-legacy", Path("/proc/net/ip6_tables_names"), "ip6", "IPv6"),
)


async def look(uplink: str, pods: str, port: int) -> list[Stopped]:
    """What the old iptables stops; nothing where it has no rules, or is not installed.

    Raises OSError when it does not answer.
    """
    asked, found = probes(uplink, pods, port), []
    for one in FAMILIES:
        if _has_rules(one):
            text = await answer_of(f"{one.command}-save", "-t", _TABLE)
            stopped = judged(chains(text.decode(), one.family), asked, _words(one))
            found += list(stopped)
    return found


def _has_rules(one: Family) -> bool:
    """Whether the kernel has the table; a kernel without the old iptables has no list."""
    try:
        there = _TABLE in one.tables.read_text().split()
    except FileNotFoundError:
        return False
    return there and shutil.which(f"{one.command}-save") is not None


def _words(one: Family) -> Words:
    """How a chain of this family is named, and how its rule is added."""

    def words(key: ChainKey, probe: Probe) -> tuple[str, str]:
        place = f"chain {key[2]} of {one.command} ({one.shown})"
        return place, f"run `{one.command} -I {key[2]} {probe.old_rule}`"

    return words


def chains(text: str, family: str) -> dict[ChainKey, Chain]:
    """The chains that ``iptables-legacy-save`` prints."""
    heads: dict[str, str] = {}
    rules: dict[str, list[Part]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy, *_ = line[1:].split()
            heads[name] = policy
            rules[name] = []
        elif line.startswith("-A "):
            words = shlex.split(line)
            rules[words[1]].append({"expr": _parts(words[2:], heads)})
    return {
        (family, _TABLE, name): Chain(
            (family, _TABLE, name), rules[name], _HOOKS.get(name, ""), _ENDS.get(policy, "accept")
        )
        for name, policy in heads.items()
    }


def _parts(words: Sequence[str], names: Mapping[str, str]) -> list[Part]:
    """A rule's matches and its verdict; what stands behind the target belongs to the target."""
    found: list[Part] = []
    protocol = ""
    for option, values, is_not in _options(words):
        if option in ("-j", "-g"):
            return [*found, _target(option, values[0], names)]
        if option == "-p":
            protocol = _PROTOCOLS.get(values[0], values[0])
        if option not in ("-m", "--comment"):
            found.append(_match(option, values, protocol, is_not=is_not))
    return found


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Options with their values, and whether a ``!`` stands before them."""
    option, is_not, turn = "", False, False
    values: list[str] = []
    for word in (*words, "-"):
        if word == "!":
            turn = True
        elif word.startswith("-"):
            if option:
                yield option, values, is_not
            option, values, is_not, turn = word, [], turn, False
        else:
            values.append(word)


def _target(option: str, name: str, names: Mapping[str, str]) -> Part:
    if name in _ENDS:
        return {_ENDS[name]: None}
    if name in _GO_ON:
        return {"log": None}
    if name in names:
        return {"goto" if option == "-g" else "jump": {"target": name}}
    return _UNKNOWN


def _match(option: str, values: Sequence[str], protocol: str, *, is_not: bool) -> Part:
    """One match as nft prints it."""
    value = values[0] if len(values) == 1 else ""
    left: Part
    right: object = value
    if option in ("-i", "-o"):
        left = {"meta": {"key": "iifname" if option == "-i" else "oifname"}}
        right = f"{value[:-1]}*" if value.endswith("+") else value
    elif option == "-p":
        left, right = {"meta": {"key": "l4proto"}}, protocol
    elif option in ("--ctstate", "--state"):
        left, right = {"ct": {"key": "state"}}, {"set": value.lower().split(",")}
    elif option in ("--dport", "--sport", "--dports", "--sports"):
        left = {"payload": {"protocol": protocol, "field": option.strip("-").rstrip("s")}}
        right = {"set": [_port(one) for one in value.split(",")]}
    elif option in ("-s", "-d"):
        left = {"meta": {"key": "address"}}
    else:
        return _UNKNOWN
    if not value:
        return _UNKNOWN
    return {"match": {"op": "!=" if is_not else "==", "left": left, "right": right}}


def _port(text: str) -> object:
    low, colon, high = text.partition(":")
    if not colon:
        return int(low) if low.isdecimal() else text
    return {"range": [int(low or 0), int(high or 65535)]}
