"""What a feature adds to a process, declared in one place: its room.

A room is a folder: the kind (documents to rows), pure modules, maps (rows to entries), nouns (the
command line), then one file for each process: ``agent.py``, ``controller.py``, ``speaker.py``. A
process has one list of features. It gives each feature the tables that the feature reads, as
constructor arguments, and asks each feature what it adds: derivations, targets, rows of the
command line, findings, and the tables below by which features meet.

Each method but ``offers`` has an answer for "nothing", so a feature names only what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar

import numpy as np

from mesh.core.model import IP, Claim, ClaimKey, Finding, Labels, Network, Node, PodKey, Usage
from mesh.core.noun import Listing
from mesh.core.reconcile import AppliedRows, ColumnTarget, Loop, Target
from mesh.core.table import ColumnTable, Source, Table

K = TypeVar("K")
V = TypeVar("V")

Entry = tuple[object, object]
#: Tokens of the rows to which a number leads.
Tokens = Callable[[int], Iterable[Hashable]]


class Maps(Protocol):
    """The pinned maps of the node, by name; ``mesh/datapath/`` has them."""

    def rows(
        self, name: str, encode: Callable[[Any, Any], Entry], decode: Callable[[Any, Any], Any]
    ) -> Target[Any, Any]:
        """A map as the target of a table of rows."""

    def columns(self, name: str, table: ColumnTable) -> ColumnTarget:
        """A map as the target of a column table, in the table's dtypes."""

    def enum(self, name: str) -> Mapping[str, int]:
        """Names and numbers of a C enum."""

    def struct(self, name: str) -> np.dtype[Any]:
        """Layout of a C struct."""

    def capacity(self, name: str) -> int:
        """Entries that may be written into the map."""

    def lookup(self, name: str, key: object) -> Any:
        """The value of one entry as a 0-d array, or None."""

    def program(self, name: str) -> int:
        """Descriptor of a program."""


class Feature:
    """What a feature adds to any process."""

    def derive(self, loop: Loop) -> None:
        """Add derivations, each below its inputs."""

    def listings(self) -> Mapping[str, Listing]:
        """Rows of the command line by noun."""
        return {}

    def findings(self) -> Iterable[Finding]:
        """What is wrong in the view of this feature."""
        return ()

    def tasks(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        """Coroutine functions that run as long as the process."""
        return ()


@dataclass
class Mark:
    """A number that a feature writes into the row of each pod: a field of ``struct pod``.

    ``former`` is the name that a former version gave to the field.
    ``refers`` are targets, each with a function that gives the tokens of the rows that a number
    leads to. These rows are written before the pod's row and deleted after it; no other row of
    these targets holds it up.
    ``before`` are the numbers in the rows that the last agent left, once rooms have recovered.
    """

    name: str
    numbers: Table[PodKey, int]
    refers: list[tuple[AppliedRows[Any, Any], Tokens]] = field(default_factory=list)
    former: str = ""
    before: dict[PodKey, int] = field(default_factory=dict)


class AgentFeature(Feature):
    """What a feature adds to a node."""

    #: Numbers in the rows of this node's pods.
    marks: Sequence[Mark] = ()
    #: Networks that no other cluster may claim: facts of the import firewall.
    ours: Sequence[Table[Network, None]] = ()
    #: Addresses that no other cluster's node may have: likewise.
    own_addresses: Sequence[Table[IP, None]] = ()
    #: Networks that another cluster has pods and nodes in by contract only; the table's name says
    #: in a finding what they are.
    barred: Sequence[Table[Network, None]] = ()
    #: Networks that another cluster has pods in by contract only; likewise.
    routed: Sequence[Table[Network, None]] = ()
    #: Networks that this node attracts: packets that no route takes further are discarded.
    announced: Sequence[Table[Network, None]] = ()
    #: What names in two layouts of a map cannot tell (the rows of ``bpf/migrate.py``).
    layouts: Sequence[Any] = ()

    def settings(self) -> Mapping[str, object]:
        """Fields of the datapath's ``struct config``."""
        return {}

    async def recover(self, maps: Maps) -> None:
        """Read back what the last agent wrote, before anything is derived."""

    def apply(self, loop: Loop, maps: Maps) -> None:
        """Connect tables with maps."""

    def apply_routes(self, loop: Loop) -> None:
        """Connect tables with routes of the host."""

    def lacks(self, pod: PodKey) -> str:  # noqa: ARG002 - for those that have something to say
        """What a new pod should have when it starts, beside its rows; empty: nothing.

        A runtime waits for it a moment, and starts the pod without it then.
        """
        return ""

    def served(self) -> Iterable[str]:
        """Which fields of objects are served by others on this node: ``mesh/objects/fields.py``."""
        return ()

    def usage(self) -> Iterable[Usage]:
        """What has an end beside the maps that ``apply`` fills, and how much of it is in use.

        Called at most every few seconds, on the event loop: it gives numbers that are there, and
        counts nothing.
        """
        return ()


@dataclass(frozen=True, slots=True, order=True)
class Want:
    """An owner that is to have a number of a pool."""

    noun: str
    pool: str
    owner: str


@dataclass(frozen=True, slots=True)
class Claimable:
    """A noun whose numbers are claimed.

    ``candidates`` are the numbers that may be given to a want. ``released`` says that a number is
    given back when nobody wants it any more; then it rests for ``rest_s`` (None: 120 s), and until
    ``let_go`` says that its owner has let go of it (None: nobody asks). ``named`` gives the number
    that a want names: then it gets this one or none.
    """

    noun: str
    candidates: Callable[[Want], Sequence[int]]
    released: bool = False
    rest_s: float | None = None
    let_go: Callable[[ClaimKey, Claim], bool] | None = None
    named: Callable[[Want], int | None] = lambda _: None


class ControllerFeature(Feature):
    """What a feature adds to the controller of a cluster."""

    claims: Sequence[Claimable] = ()
    #: Owners that are to have numbers.
    wants: Sequence[Table[Want, bool]] = ()
    #: Networks that no other cluster may claim: facts of the import firewall.
    ours: Sequence[Table[Network, None]] = ()
    #: Addresses that no other cluster's node may have: likewise.
    own_addresses: Sequence[Table[IP, None]] = ()
    #: Networks that another cluster has pods and nodes in by contract only; the table's name says
    #: in a finding what they are.
    barred: Sequence[Table[Network, None]] = ()
    #: Networks that another cluster has pods in by contract only; likewise.
    routed: Sequence[Table[Network, None]] = ()

    @property
    def agreed(self) -> Mapping[str, object]:
        """Fields of the configuration that all controllers of the cluster agree on."""
        return {}


@dataclass(frozen=True, slots=True)
class Offer:
    """A prefix that a node may announce.

    ``labels`` are those of the object that it stands for, which BGPPeers may select. ``object`` is
    that object (``kind/namespace/name``) or the claim, so that a prefix which is gone can be told
    from one that is not known yet. ``rd``, ``targets`` and the SID with behaviour and structure are
    those of a VPN route (RFC 4364, RFC 9252); without ``rd`` the prefix is a unicast one. ``peers``
    are the BGPPeers that may carry it, None: all. ``form`` says which of several forms it has that
    BGPPeers choose from (``ClusterIP``), and ``exact`` that no prefix of a shorter length may stand
    for it.
    """

    prefix: Network
    labels: Labels = ()
    object: str = ""
    rd: str = ""
    targets: tuple[str, ...] = ()
    sid: IPv6Address | None = None
    behaviour: int = 0
    structure: tuple[int, int, int, int, int, int] | None = None
    peers: frozenset[str] | None = None
    form: str = ""
    exact: bool = False


class SpeakerFeature(Feature):
    """What a feature announces: ``kind`` is a word of ``BGPPeer.spec.advertise``."""

    kind: str
    #: Tables that decide; a route is withdrawn only while all of them are synced.
    inputs: Sequence[Source] = ()
    #: Networks of the cluster that no route of a peer may lead to; the table's name says in words
    #: what they are.
    ours: Sequence[Table[Network, None]] = ()

    def offers(self, node: Node) -> Iterable[Offer]:
        """What the node may announce now."""
        raise NotImplementedError
