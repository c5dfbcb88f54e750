"""Which entries of pods count: a node speaks for its own addresses, a controller for identities.

A node's certificate lets it write the entries of its pods, and any text into them (D65). So

- an address counts inside the pod CIDRs that are claimed for the node of the entry, or when a
  controller has confirmed it from the object of the pod: another CNI hands it out then;
- of two pods with one address the first stays; the other one waits, and holds it when the first
  goes;
- the identity is the one that a controller has confirmed for the pod, whatever labels the entry
  says. In a cluster whose controllers do not confirm pods yet the labels count.

An event costs the pods that it concerns. Agent and controller have one such table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mesh.core.findings import Code
from mesh.core.groups import HANDED, By
from mesh.core.model import (
    IP,
    Confirmed,
    Finding,
    Identity,
    Network,
    Node,
    NodeKey,
    PodEntry,
    PodRef,
)
from mesh.core.passes import Sliced
from mesh.core.reconcile import Loop
from mesh.core.table import Changes, Source, Table
from mesh.identity.findings import HELD, NOT_CONFIRMED, OUTSIDE
from mesh.identity.holders import Holders

#: Seconds for which an entry may be odd before it is a finding: its facts come by several ways.
SETTLE_S = 3.0

#: Addresses of an entry that count; a pod has one of each family. Entries that are told one by one.
MOST_ADDRESSES, MOST_TOLD = 16, 64

Take = Callable[[Changes[PodRef, PodEntry]], None]


class _OfPodsThere(Source):
    """Changes of confirmations of pods that have an entry; others wake nobody.

    A controller is mostly faster than the agent of the pod, and hundreds of nodes hear both.
    """

    def __init__(
        self, confirmed: Table[PodRef, Confirmed], said: Mapping[PodRef, PodEntry]
    ) -> None:
        super().__init__("confirmations of pods that are there")
        self._confirmed, self._said = confirmed, said
        self._seen = -1
        self._refs: dict[PodRef, None] = {}
        #: Pods that a controller had confirmed, and whose node says the same as then: the object
        #: has gone, and the node's agent, which would say so, is away or was killed with the node.
        self.left: set[PodRef] = set()
        confirmed.listen(self._look)

    def take(self) -> Mapping[PodRef, None]:
        """The pods that changes since the last call concern."""
        refs, self._refs = self._refs, {}
        return refs

    def _look(self) -> None:
        changes = self._confirmed.changes(self._seen)
        self._seen = self._confirmed.revision
        changed = self._said if changes is None else (*changes.upsert, *changes.delete)
        refs = [ref for ref in changed if ref in self._said]
        if changes is not None:
            self.left.difference_update(changes.upsert)
            self.left.update(ref for ref in changes.delete if ref in self._said)
        if refs:
            self._refs.update(dict.fromkeys(refs))
            self.revision += 1
            self._wake()
        if self._confirmed.synced:
            self.mark_synced()


class CountedPods(Sliced):
    """``table`` has the entries that count, each with the addresses that the pod holds.

    ``entries`` are those of the agents, ``identity`` and ``number`` the claims of the cluster.
    ``then`` is told what has changed in ``table``.
    """

    def __init__(
        self,
        cluster: str,
        entries: Table[PodRef, PodEntry],
        confirmed: Table[PodRef, Confirmed],
        confirms: Table[str, None],
        identity: Table[int, Identity],
        number: Table[str, int],
        then: Take | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table: Table[PodRef, PodEntry] = Table("pod that counts")
        self.then = then
        self._cluster, self._clock = cluster, clock
        self._entries, self._confirmed, self._confirms = entries, confirmed, confirms
        self._identity, self._number = identity, number
        self._cidrs: Table[str, tuple[Network, ...]] = Table("pod CIDRs of own node")
        self._said: dict[PodRef, PodEntry] = {}
        self._of_node: dict[str, set[PodRef]] = {}
        self._of_labels: dict[str, set[PodRef]] = {}  # whose labels count
        self._holders = Holders()
        self._of_pods_there = _OfPodsThere(confirmed, self._said)
        self._odd: dict[PodRef, float] = {}  # since when
        #: The tables that decide, and the pods that a change of a row concerns.
        self._inputs: tuple[tuple[Table[Any, Any], Callable[[Any], Iterable[PodRef]]], ...] = (
            (self._entries, lambda ref: (ref,)),
            (self._cidrs, lambda name: self._of_node.get(name, ())),
            (self._number, lambda labels: self._of_labels.get(labels, ())),
            (self._confirms, self._unconfirmed),
        )
        self._seen = [-1 for _ in self._inputs]  # revisions; before the first all is new

    def derive(self, loop: Loop, node: Table[NodeKey, Node]) -> None:
        """Add the derivations; ``node`` has the nodes with the pod CIDRs that they have claimed."""
        loop.group(self._cidrs, _cidrs, By(node, self._if_ours))
        confirmed: list[Source] = [self._of_pods_there, self._confirms]
        others: list[Source] = [self._entries, self._cidrs, self._number]
        loop.work("pods that count", self, confirmed, others)

    # --- What others ask ----------------------------------------------------------------------

    def holder(self, address: IP) -> PodRef | None:
        """The pod that holds an address."""
        return self._holders.of(address)

    def of_node(self, name: str) -> Mapping[PodRef, PodEntry]:
        """The entries of a node that count."""
        rows = self.table.rows
        return {ref: rows[ref] for ref in self._of_node.get(name, ()) if ref in rows}

    def findings(self) -> Iterable[Finding]:
        """What nodes say that does not count."""
        settled, told = self._clock() - SETTLE_S, 0
        for ref, since in list(self._odd.items()):
            if since > settled or ref.node not in self._cidrs.rows:
                continue
            found = list(self._refused(ref, self._said[ref]))
            if not found:
                del self._odd[ref]  # the text of its identity has come since
            told += bool(found)
            if told > MOST_TOLD:
                text = f"{MOST_TOLD} entries are told one by one, and there are more"
                place = f"meshgate/v1/{self._cluster}/pod/"
                yield Finding(OUTSIDE, place, "", text)
                return
            yield from found

    # --- Events -------------------------------------------------------------------------------

    def steps(self) -> Iterator[None]:
        """Judge the pods that changes concern, in pieces."""
        self.groups = self.rows = 0
        entries, refs = self._entries.rows, list(self._concerned())
        for at in range(0, len(refs), HANDED):
            if at:
                yield
            touched: dict[PodRef, None] = {}
            for ref in refs[at : at + HANDED]:
                self._put(ref, entries.get(ref), touched)
            self._settle(touched)
        if self._entries.synced and self._cidrs.synced:
            self.table.mark_synced()

    def _concerned(self) -> Iterable[PodRef]:
        changed = [
            (table.changes(seen), pods)
            for (table, pods), seen in zip(self._inputs, self._seen, strict=True)
        ]
        self._seen = [table.revision for table, _ in self._inputs]
        refs = dict(self._of_pods_there.take())
        for changes, pods in changed:
            if changes is None:
                return {**dict.fromkeys(self._said), **dict.fromkeys(self._entries.rows)}
            for key in (*changes.upsert, *changes.delete):
                refs.update(dict.fromkeys(pods(key)))
        return refs

    def _unconfirmed(self, _: str) -> Iterable[PodRef]:
        """What no controller has confirmed counts no more once one confirms pods."""
        if not self._confirms.rows:
            return self._said
        return [ref for refs in self._of_labels.values() for ref in refs]

    def _put(self, ref: PodRef, entry: PodEntry | None, touched: dict[PodRef, None]) -> None:
        """Hold and leave addresses as the entry says; ``touched`` are the pods that it concerns."""
        before = self._said.get(ref)
        said = entry.addresses[:MOST_ADDRESSES] if entry else ()
        wanted = [one for one in said if self._may_have(ref, one)]
        for address in before.addresses[:MOST_ADDRESSES] if before else ():
            if address not in wanted and (following := self._holders.leave(address, ref)):
                touched[following] = None
        for address in wanted:
            self._holders.ask(address, ref)
        self._index(ref, before, entry)
        touched[ref] = None

    def _index(self, ref: PodRef, before: PodEntry | None, entry: PodEntry | None) -> None:
        if before is not None:
            _drop(self._of_labels, before.labels, ref)
        if entry != before:
            self._of_pods_there.left.discard(ref)
        if entry is None:
            _drop(self._of_node, ref.node, ref)
            self._said.pop(ref, None)
            self._odd.pop(ref, None)
            return
        self._said[ref] = entry
        if before is None:
            self._of_node.setdefault(ref.node, set()).add(ref)
        if ref not in self._confirmed.rows and not self._confirms.rows:
            self._of_labels.setdefault(entry.labels, set()).add(ref)

    def _may_have(self, ref: PodRef, address: IP) -> bool:
        cidrs = self._cidrs.rows.get(ref.node, ())
        if any(address in cidr for cidr in cidrs):
            return True
        confirmed = self._confirmed.rows.get(ref)
        return confirmed is not None and address in confirmed.addresses

    def _settle(self, touched: Iterable[PodRef]) -> None:
        rows, gone = dict[PodRef, PodEntry](), list[PodRef]()
        for ref in touched:
            if entry := self._said.get(ref):
                rows[ref] = self._row(ref, entry)
            else:
                gone.append(ref)
        self.table.upsert(rows)
        self.table.delete(gone)
        if self.then:
            self.then(Changes(rows, frozenset(gone)))

    def _row(self, ref: PodRef, entry: PodEntry) -> PodEntry:
        holders = self._holders
        said = entry.addresses[:MOST_ADDRESSES]
        held = tuple([one for one in said if holders.of(one) == ref])
        number, labels = self._identity_of(ref, entry)
        if labels == entry.labels and number and len(held) == len(entry.addresses):
            self._odd.pop(ref, None)
        else:
            self._odd.setdefault(ref, self._clock())
        return PodEntry(held, labels or entry.labels, number, entry.vrf)

    def _identity_of(self, ref: PodRef, entry: PodEntry) -> tuple[int, str]:
        """The identity of a pod, and its text; empty when the text is not known yet."""
        confirmed = self._confirmed.rows.get(ref)
        if confirmed is None:
            known = 0 if self._confirms.rows else self._number.rows.get(entry.labels, 0)
            return known, entry.labels
        identity = self._identity.rows.get(confirmed.identity)
        return confirmed.identity, identity.labels if identity else ""

    def _if_ours(self, key: NodeKey, _: Node) -> list[str]:
        return [key.name] if key.cluster == self._cluster else []

    # --- Findings -----------------------------------------------------------------------------

    def _refused(self, ref: PodRef, entry: PodEntry) -> Iterable[Finding]:
        for address in entry.addresses[:MOST_ADDRESSES]:
            holder = self._holders.of(address)
            if not self._may_have(ref, address):
                cidrs = ", ".join(map(str, self._cidrs.rows[ref.node])) or "none"
                text = f"node {ref.node} says {address}; its pod CIDRs: {cidrs}"
                yield self._finding(OUTSIDE, ref, str(address), text)
            elif holder is not None and holder != ref:
                text = f"node {ref.node} says {address}, which pod {holder.namespace}/{holder.name}"
                text += f" of node {holder.node} has"
                yield self._finding(HELD, ref, str(address), text)
        if more := len(entry.addresses[MOST_ADDRESSES:]):
            text = (
                f"node {ref.node} says {more} addresses more than the {MOST_ADDRESSES} that count"
            )
            yield self._finding(OUTSIDE, ref, "addresses", text)
        number, labels = self._identity_of(ref, entry)
        if not number and self._confirms.rows and ref not in self._of_pods_there.left:
            text = f"node {ref.node} says it has this pod; no controller has confirmed that"
            yield self._finding(NOT_CONFIRMED, ref, "labels", text)
        elif labels and labels != entry.labels:
            text = f"node {ref.node} says other labels than those of identity {number}, "
            text += "which a controller has confirmed"
            yield self._finding(NOT_CONFIRMED, ref, "labels", text)

    def _finding(self, code: Code, ref: PodRef, field: str, text: str) -> Finding:
        key = f"meshgate/v1/{self._cluster}/pod/{ref.node}/{ref.namespace}/{ref.name}"
        return Finding(code, key, field, text, (f"node/{ref.node}",))


def _cidrs(name: str, nodes: Mapping[NodeKey, Node]) -> dict[str, tuple[Network, ...]]:
    return (
        {name: tuple(cidr for node in nodes.values() for cidr in node.pod_cidrs)} if nodes else {}
    )


def _drop(index: dict[str, set[PodRef]], name: str, ref: PodRef) -> None:
    refs = index.get(name)
    if refs is not None:
        refs.discard(ref)
        if not refs:
            del index[name]
