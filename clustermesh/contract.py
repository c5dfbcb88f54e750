"""ClusterPeer: the contract with another cluster. Documents -> rows, strictly; which row counts.

An unknown or wrong field refuses the whole object by path. Of two contracts for one cluster one is
in force, and a contract that contradicts ours or another one changes nothing: what was in force
before stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec

from clustermesh.findings import CONTRACT_ID, CONTRACT_OVERLAP, SECOND_CONTRACT
from clustermesh.remote.wire import MAX_CLUSTERS, is_cluster_name, is_object_name
from mesh.core.findings import Code
from mesh.core.model import Finding, Network
from mesh.core.strict import AnyNetwork, Wrong, convert
from mesh.objects.definition import Column, Definition, Rule
from mesh.objects.schema import Kind, Parsed, Place, Strict, StrictObject
from mesh.objects.tables import ObjectNoun

#: In place of namespaces: every one.
ALL = "*"


class Limits(Strict, frozen=True, kw_only=True):
    """How many rows of each noun are accepted; absent: as many as are read of any cluster."""

    nodes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    identities: Annotated[int, msgspec.Meta(ge=0)] | None = None
    addresses: Annotated[int, msgspec.Meta(ge=0)] | None = None
    services: Annotated[int, msgspec.Meta(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """One ClusterPeer object, parsed."""

    name: str
    cluster: str
    id: int
    pod_cidrs: tuple[Network, ...]
    node_cidrs: tuple[Network, ...]
    service_cidrs: tuple[Network, ...] = ()
    namespaces: tuple[str, ...] = ()
    hosts: bool = False
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    origin: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"ClusterPeer/{self.name}"

    @property
    def place(self) -> str:
        """The object as findings name it."""
        return self.origin or str(self)

    def gives_namespace(self, namespace: str) -> bool:
        """Whether services and pods of the namespace are taken in."""
        return namespace in self.namespaces or ALL in self.namespaces

    def finding(self, code: Code, path: str, text: str) -> Finding:
        """A finding about a field of the object."""
        return Finding(code, self.place, path, text, (f"cluster/{self.cluster}",))


CONTRACTS: ObjectNoun[str, Contract] = ObjectNoun("contract")


class _Spec(Strict, frozen=True, kw_only=True):
    rules: ClassVar = (
        Rule(
            "self.cluster.matches('^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$') && "
            "self.cluster != 'default'",
            "expected a cluster name: 1 to 32 of a-z, 0-9 and dash, not 'default'",
            ".cluster",
        ),
        Rule(
            "!has(self.namespaces) || self.namespaces.all(n, n == '*' || "
            "size(n) <= 253 && n.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'))",
            "expected namespaces, or '*' for all",
            ".namespaces",
        ),
    )
    cluster: str
    id: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLUSTERS)]
    pod_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        name="podCIDRs"
    )
    node_cidrs: Annotated[tuple[AnyNetwork, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        name="nodeCIDRs"
    )
    service_cidrs: tuple[AnyNetwork, ...] = msgspec.field(name="serviceCIDRs", default=())
    namespaces: tuple[str, ...] = ()
    hosts: bool = False
    limits: Limits = Limits()


class _ClusterPeer(StrictObject, frozen=True, kw_only=True):
    spec: _Spec


class _Kept(Strict, frozen=True, kw_only=True):
    """A contract as it is written down."""

    name: str
    origin: str
    spec: _Spec


def _contract(place: Place, document: object) -> Parsed:
    spec = convert(document, _ClusterPeer).spec
    if not is_cluster_name(spec.cluster):
        text = f"{spec.cluster!r} is no cluster name: 1 to 32 of a-z, 0-9 and dash, not 'default'"
        raise Wrong("spec.cluster", text)
    if spec.cluster == place.cluster:
        raise Wrong("spec.cluster", f"{spec.cluster} is our own cluster")
    for number, namespace in enumerate(spec.namespaces):
        if namespace != ALL and not is_object_name(namespace):
            text = f"expected a namespace, or {ALL!r} for all, got {namespace!r}"
            raise Wrong(f"spec.namespaces[{number}]", text)
    row = _row(place.key.name, spec, str(place))
    return Parsed(CONTRACTS.name, row.name, row)


def _row(name: str, spec: _Spec, origin: str) -> Contract:
    return Contract(
        name,
        spec.cluster,
        spec.id,
        tuple(dict.fromkeys(spec.pod_cidrs)),
        tuple(dict.fromkeys(spec.node_cidrs)),
        tuple(dict.fromkeys(spec.service_cidrs)),
        tuple(sorted(set(spec.namespaces))),
        hosts=spec.hosts,
        limits=spec.limits,
        origin=origin,
    )


def to_text(contract: Contract) -> object:
    """A contract in values that JSON has."""
    spec = _Spec(
        cluster=contract.cluster,
        id=contract.id,
        pod_cidrs=contract.pod_cidrs,
        node_cidrs=contract.node_cidrs,
        service_cidrs=contract.service_cidrs,
        namespaces=contract.namespaces,
        hosts=contract.hosts,
        limits=contract.limits,
    )
    kept = _Kept(name=contract.name, origin=contract.origin, spec=spec)
    return msgspec.to_builtins(kept, enc_hook=str)


def from_text(value: object) -> Contract:
    """Inverse of ``to_text``. Raises Wrong."""
    kept = convert(value, _Kept)
    return _row(kept.name, kept.spec, kept.origin)


DEFINITION = Definition(
    _ClusterPeer,
    "clusterpeers",
    ("cpeer",),
    (
        Column("Cluster", ".spec.cluster"),
        Column("Id", ".spec.id", "integer"),
        Column("PodCIDRs", ".spec.podCIDRs", wide=True),
    ),
)

KINDS = (Kind("meshgate.io/v1alpha1", "ClusterPeer", CONTRACTS, _contract, definition=DEFINITION),)


# --- Which one is in force ------------------------------------------------------------------------

#: A network of ours that meets another one, or None.
Meeting = Callable[[Network], Network | None]


@dataclass(frozen=True, slots=True)
class Contracts:
    """The contract of each cluster that has one, and the findings about the objects."""

    contracts: Mapping[str, Contract]
    findings: tuple[Finding, ...] = ()


def in_force(
    objects: Iterable[Contract], before: Mapping[str, Contract], own_id: int, ours: Meeting
) -> Contracts:
    """Choose among the objects; ``before`` were in force until now, by cluster.

    Of two objects for one cluster, the one that was in force stays, else the first by name. One
    that contradicts ours or another one is not taken; its former version, if any, stays.
    """
    findings: list[Finding] = []
    chosen = dict(_one_each(objects, before, findings))
    while (refused := _first_refused(chosen, before, own_id, ours)) is not None:
        contract, problems = refused
        findings += problems
        former = before.get(contract.cluster)
        if former is None:
            del chosen[contract.cluster]
        else:
            chosen[contract.cluster] = former
    for contract in chosen.values():  # ours may have grown since it was taken
        if not any(finding.object == contract.place for finding in findings):
            findings += _contradictions(contract, (), own_id, ours)
    return Contracts(chosen, tuple(findings))


def _first_refused(
    chosen: Mapping[str, Contract], before: Mapping[str, Contract], own_id: int, ours: Meeting
) -> tuple[Contract, list[Finding]] | None:
    """A contract that is new or changed and contradicts ours, or those that stand before it."""
    order = sorted(chosen.values(), key=lambda one: (before.get(one.cluster) != one, one.name))
    for at, contract in enumerate(order):
        if before.get(contract.cluster) != contract:
            problems = list(_contradictions(contract, order[:at], own_id, ours))
            if problems:
                return contract, problems
    return None


def _one_each(
    objects: Iterable[Contract], before: Mapping[str, Contract], findings: list[Finding]
) -> Iterator[tuple[str, Contract]]:
    by_cluster: dict[str, list[Contract]] = {}
    for contract in sorted(objects, key=lambda contract: contract.name):
        by_cluster.setdefault(contract.cluster, []).append(contract)
    for cluster, contracts in by_cluster.items():
        was = before[cluster].name if cluster in before else ""
        first = next((one for one in contracts if one.name == was), contracts[0])
        yield cluster, first
        for other in contracts:
            if other is not first:
                text = f"cluster {cluster} has the contract {first} already: this one is not used"
                findings.append(other.finding(SECOND_CONTRACT, "spec.cluster", text))


def _contradictions(
    contract: Contract, others: Sequence[Contract], own_id: int, ours: Meeting
) -> Iterator[Finding]:
    for number, network in enumerate(contract.pod_cidrs):
        path, met = f"spec.podCIDRs[{number}]", ours(network)
        if met is not None:
            yield contract.finding(CONTRACT_OVERLAP, path, f"{network} meets {met} of our cluster")
        for other in others:
            for given in other.pod_cidrs:
                if given.version == network.version and given.overlaps(network):
                    text = (
                        f"{network} meets {given}, which {other} gives to cluster {other.cluster}"
                    )
                    yield contract.finding(CONTRACT_OVERLAP, path, text)
    taken = {own_id: "our own cluster"} | {one.id: f"cluster {one.cluster}" for one in others}
    if contract.id in taken:
        text = f"cluster id {contract.id} is that of {taken[contract.id]}"
        yield contract.finding(CONTRACT_ID, "spec.id", text)
