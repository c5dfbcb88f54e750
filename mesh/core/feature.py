"""What a feature adds to a process, declared in one place: its room.

A room is a folder: the kind (documents to rows), pure modules, maps (rows to entries), nouns (the
command line), then one file for each process: ``agent.py``, ``controller.py``, ``speaker.py``. A
process has one list of features. It gives each feature the tables that the feature reads, as
constructor arguments, and asks each feature what it adds: derivations, targets, rows of the
command line, findings, and the tables below by which features meet.

Each method but ``prefixes`` has an answer for "nothing", so a feature names only what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from mesh.core.model import IP, Finding, Network, Node, PodKey, Usage
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
    """

    name: str
    numbers: Table[PodKey, int]
    refers: list[tuple[AppliedRows[Any, Any], Tokens]] = field(default_factory=list)
    former: str = ""


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

    def lacks(self, pod: PodKey) -> str:  # noqa: ARG002 - for those that have something to say
        """What a new pod should have when it starts, beside its rows; empty: nothing.

        A runtime waits for it a moment, and starts the pod without it then.
        """
        return ""

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
    given back when nobody wants it any more; then it rests.
    """

    noun: str
    candidates: Callable[[Want], Sequence[int]]
    released: bool = False


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


class SpeakerFeature(Feature):
    """What a feature announces: ``kind`` is a word of ``BGPPeer.spec.advertise``."""

    kind: str
    #: Tables that decide; a route is withdrawn only while all of them are synced.
    inputs: Sequence[Source] = ()

    def prefixes(self, node: Node) -> Iterable[Network]:
        """Prefixes that the node announces now."""
        raise NotImplementedError
