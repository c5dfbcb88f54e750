"""The prefixes that fill the store, from samples.

Reading everything would be a load itself. So the keys of each prefix are counted by etcd, and the
size of a few is measured. A process that writes the same key again and again fills the store with
history, which no count shows: so a watch measures the writes of a short while.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client
from clustermesh.etcd.names import key_bytes, key_text
from clustermesh.etcd.requests import cut, prefix_end
from clustermesh.remote import wire
from clustermesh.remote.shared import CONFIG, SHARED

#: Keys of a prefix that are measured, and prefixes of one Txn.
MEASURED, PREFIXES_PER_TXN = 8, 16
#: Seconds for which writes are watched.
WATCHED_S = 2.0
#: Writers that are named.
NAMED = 3
#: Prefixes that a controller may read.
TREES = ("cilium/", "meshgate/v1/")


@dataclass(frozen=True, slots=True)
class Writers:
    """Estimated bytes by prefix: stored ones, and those written while it was watched."""

    stored: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = ["the most is stored below " + _largest(self.stored)] if self.stored else []
        if self.written:
            parts.append(f"in {WATCHED_S:g} s the most was written below {_largest(self.written)}")
        return "; ".join(parts)


def prefixes(clusters: Iterable[str]) -> Sequence[str]:
    """Where clusters write."""
    nouns = [noun.prefix for noun in SHARED if noun is not CONFIG]
    return [
        prefix
        for name in sorted(clusters)
        for prefix in (*(f"{noun}{name}/" for noun in nouns), f"meshgate/v1/{name}/")
    ]


async def writers(client: Client, clusters: Iterable[str]) -> Writers:
    """Measure. Raises EtcdError."""
    found = Writers()
    for part in cut(prefixes(clusters), PREFIXES_PER_TXN, len):
        reply = await client.txn([], list(map(_sample, part)), repeat=True)
        for prefix, answer in zip(part, reply.responses, strict=True):
            sample = answer.response_range
            size = sum(len(kv.key) + len(kv.value) for kv in sample.kvs)
            if size:
                found.stored[prefix] = size * sample.count // len(sample.kvs)
    with suppress(TimeoutError):
        async with asyncio.timeout(WATCHED_S):
            await asyncio.gather(*(_watch(client, tree, found.written) for tree in TREES))
    return found


async def _watch(client: Client, tree: str, written: Counter[str]) -> None:
    async with aclosing(client.watch(tree)) as watch:
        async for seen in watch:
            for event in seen.events:
                written[_group(key_text(event.kv.key))] += len(event.kv.key) + len(event.kv.value)


def _group(key: str) -> str:
    """The prefix of the cluster for which a key counts."""
    head, cluster = wire.split_key(key)
    if cluster:
        return f"{head}{cluster}/"
    return f"{'/'.join(key.split('/')[:3])}/"


def _sample(prefix: str) -> pb.RequestOp:
    """A few keys, and how many there are."""
    start = key_bytes(prefix)
    return pb.RequestOp(
        request_range=pb.RangeRequest(key=start, range_end=prefix_end(start), limit=MEASURED)
    )


def _largest(sizes: Counter[str]) -> str:
    return ", ".join(f"{wire.plain(key)} ({mib(size)})" for key, size in sizes.most_common(NAMED))


def mib(size: float) -> str:
    """A size in words."""
    return f"{size / (1 << 20):.1f} MiB"
