"""What the leader says about an object of ours, in the object's status. Pure.

    findings about the object -> conditions -> only those that differ from what stands there

``Accepted`` says whether the document is used as it is written. ``Programmed`` says whether every
node of the cluster holds this generation of it. ``Healthy`` says whether anything else is wrong
with it: its reason is the code of the finding, as ``docs/findings.md`` has it.
``FirewallAcknowledged`` is there once an address of a policy has waited for firewalls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.k8s.findings import IN_BOTH
from mesh.objects.findings import DUPLICATE, REFUSED

ACCEPTED, PROGRAMMED, HEALTHY = "Accepted", "Programmed", "Healthy"
#: Whether firewalls have the egress addresses of a policy that asks for it (finding M234).
ACKNOWLEDGED, NOT_ACKNOWLEDGED = "FirewallAcknowledged", "M234"
#: Why a document is not used as it is written.
_NOT_ACCEPTED: Mapping[Code, str] = {
    REFUSED: "Invalid",
    DUPLICATE: "Duplicate",
    IN_BOTH: "Duplicate",
}
#: Longest message; the API server takes 32,768.
_LONGEST = 4096
#: Nodes that a message names; of further ones it has the number.
_NAMED = 5


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A condition as it stands in a status."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0
    last_transition_time: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """An object of a kind of ours: what its metadata and its status say."""

    api_version: str
    kind: str
    namespace: str
    name: str
    path: str
    uid: str
    generation: int
    conditions: tuple[Condition, ...] = ()


class _Metadata(msgspec.Struct, frozen=True):
    uid: str = ""
    generation: int = 0


class _Status(msgspec.Struct, frozen=True):
    conditions: tuple[Condition, ...] = ()


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata
    status: _Status = _Status()


def owned(
    api_version: str, kind: str, namespace: str, name: str, path: str, document: Mapping[str, Any]
) -> Owned:
    """What an object's document says; a status that is none of ours counts as empty."""
    try:
        found = msgspec.convert(document, _Object)
    except msgspec.ValidationError:
        found = _Object(msgspec.convert(document["metadata"], _Metadata))
    uid, generation = found.metadata.uid, found.metadata.generation
    conditions = found.status.conditions
    return Owned(api_version, kind, namespace, name, path, uid, generation, conditions)


def wanted(
    one: Owned, found: Sequence[Finding], lacking: Sequence[str], now: str
) -> tuple[Condition, ...]:
    """The conditions that an object is to have. ``now`` is the time of a change.

    ``lacking`` are the nodes that do not hold the object's generation.
    """
    refused = [finding for finding in found if finding.code in _NOT_ACCEPTED]
    others = sorted(
        (finding for finding in found if finding.code not in _NOT_ACCEPTED),
        key=lambda finding: (finding.code, finding.field),
    )
    reason = _NOT_ACCEPTED[refused[0].code] if refused else "Used"
    made = [
        _condition(one, ACCEPTED, refused, reason, "the object is used as it is written"),
        _programmed(one, lacking, accepted=not refused),
        _condition(one, HEALTHY, others, others[0].code if others else "NoFinding", "no finding"),
    ]
    waits = [finding for finding in others if finding.code == NOT_ACKNOWLEDGED]
    if waits or any(each.type == ACKNOWLEDGED for each in one.conditions):
        reason = "Waits" if waits else "Acknowledged"
        made.append(_condition(one, ACKNOWLEDGED, waits, reason, "firewalls have all addresses"))
    return tuple(_dated(condition, one.conditions, now) for condition in made)


def differs(one: Owned, conditions: Iterable[Condition]) -> bool:
    """Whether any of these conditions does not stand in the status."""
    return not set(conditions) <= set(one.conditions)


def is_news(one: Owned, conditions: Iterable[Condition]) -> bool:
    """Whether more than the words of a message differ."""
    return not {_bare(each) for each in conditions} <= {_bare(each) for each in one.conditions}


def applied(one: Owned, conditions: Iterable[Condition]) -> dict[str, Any]:
    """The document that makes these conditions the object's, by server-side apply."""
    metadata = {"name": one.name} | ({"namespace": one.namespace} if one.namespace else {})
    return {
        "apiVersion": one.api_version,
        "kind": one.kind,
        "metadata": metadata,
        "status": {"conditions": [msgspec.to_builtins(each) for each in conditions]},
    }


def _condition(
    one: Owned, type_: str, found: Collection[Finding], reason: str, well: str
) -> Condition:
    texts = [f"{finding.field}: {finding.text}".removeprefix(": ") for finding in found]
    message = "; ".join(dict.fromkeys(texts))[:_LONGEST] or well
    return Condition(type_, "False" if found else "True", str(reason), message, one.generation)


def _programmed(one: Owned, lacking: Sequence[str], *, accepted: bool) -> Condition:
    if not accepted:
        text = "no node uses the object as it is written: see Accepted"
        return Condition(PROGRAMMED, "False", "NotAccepted", text, one.generation)
    if lacking:
        further = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        text = f"not yet on {', '.join(lacking[:_NAMED])}{further}"
        return Condition(PROGRAMMED, "False", "NodesLackIt", text, one.generation)
    return Condition(PROGRAMMED, "True", "OnAllNodes", "every node holds it", one.generation)


def _dated(new: Condition, old: Iterable[Condition], now: str) -> Condition:
    """With the time at which the status became what it is."""
    times = (one.last_transition_time for one in old if _says(one) == _says(new))
    return msgspec.structs.replace(new, last_transition_time=next(times, now))


def _says(condition: Condition) -> tuple[str, str]:
    return condition.type, condition.status


def _bare(condition: Condition) -> Condition:
    return msgspec.structs.replace(condition, message="", last_transition_time="")
