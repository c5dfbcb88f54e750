"""Fence: document -> row."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.model import Network, PodSelector
from mesh.core.strict import AnyNetwork, convert
from mesh.objects.schema import (
    Kind,
    Parsed,
    Place,
    SelectorField,
    Strict,
    StrictObject,
    selector_of,
)
from mesh.objects.tables import ObjectNoun

#: Noun of the claims; their pool is ``fences``, the owner is the fence's name.
NOUN, POOL = "fence", "fences"


@dataclass(frozen=True, slots=True)
class Fence:
    name: str
    pods: PodSelector
    networks: tuple[Network, ...]
    origin: str


FENCES: ObjectNoun[str, Fence] = ObjectNoun("fence")


class _Spec(Strict, frozen=True, kw_only=True):
    pod_selector: SelectorField
    networks: tuple[AnyNetwork, ...]


class _Fence(StrictObject, frozen=True, kw_only=True):
    spec: _Spec


def _fence(place: Place, document: object) -> Parsed:
    spec = convert(document, _Fence).spec
    pods = PodSelector(None, selector_of("spec.podSelector", spec.pod_selector))
    name = place.key.name
    return Parsed(FENCES.name, name, Fence(name, pods, spec.networks, str(place)))


KINDS = (Kind("test.meshgate.io/v1", "Fence", FENCES, _fence),)
