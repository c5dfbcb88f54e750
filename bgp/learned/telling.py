"""What a speaker says of learned routes in etcd: counts, and the sets of labels. Pure.

``meshgate/v1/<cluster>/learned/<node>/labels`` = {"labels": [text, …]}: the label texts that need
an identity, at most ``MOST_SETS``. ``…/counts`` = {"received": n, "used": n}. Routes themselves
never go through etcd.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from mesh.identity.labels import learned_labels, learned_text

#: Different sets of labels of one node that get an identity: identities are never given back.
MOST_SETS = 256
#: Keys of a node below ``learned/<node>/``.
LABELS, COUNTS = "labels", "counts"


def learned_prefix(cluster: str, node: str) -> str:
    """The prefix of what a node's speaker says."""
    return f"meshgate/v1/{cluster}/learned/{node}/"


def keys(prefix: str, texts: Iterable[str], received: int, used: int) -> dict[str, bytes]:
    """Keys and values; none of a node that has received nothing."""
    if not received:
        return {}
    told = kept(texts)
    rows = {f"{prefix}{COUNTS}": msgspec.json.encode({"received": received, "used": used})}
    if told:
        rows[f"{prefix}{LABELS}"] = msgspec.json.encode({"labels": told})
    return rows


def kept(texts: Iterable[str]) -> list[str]:
    """The label texts that are told: the first ones in their order."""
    return sorted(set(texts))[:MOST_SETS]


def is_made(cluster: str, text: str, declared: Collection[tuple[str, str]]) -> bool:
    """Whether import rules can have made the text; ``declared`` are the labels that they name."""
    labels = learned_labels(text)
    return (
        bool(labels)
        and text == learned_text(cluster, labels)
        and all(label in declared for label in labels)
    )
