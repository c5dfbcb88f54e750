"""The per-CPU counters of ``mg_drop`` and ``mg_reset`` as rows of the nouns ``drop``, ``reset``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mesh.core.noun import Row

if TYPE_CHECKING:  # the command line lists the nouns of this folder without numpy
    import numpy.typing as npt


def drop_rows(
    node: str,
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    texts: Mapping[int, str],
    since: float,
) -> list[Row]:
    """Rows of every reason that has counted a packet, by number.

    ``keys`` and ``values[key, cpu]`` are what ``Map.dump_percpu`` of ``mg_drop`` returns,
    ``texts`` is ``events.reason_texts``. The counters outlive the agent: ``since`` is the Unix time
    from which on they count. A number without a name is printed as a number.
    """
    packets = values["packets"].sum(axis=1, dtype="uint64")
    counted = zip(keys.ravel().tolist(), packets.tolist(), strict=True)
    return [
        {
            "node": node,
            "reason": texts.get(number, f"reason {number}"),
            "number": number,
            "packets": count,
            "since": since,
        }
        for number, count in sorted(counted)
        if count
    ]


#: The receiver of a reset, and its source, by name of ``enum reset_count``.
_RESETS = {
    "RESET_POD": ("pod", "the other end"),
    "RESET_FAR": ("other end", "the egress address"),
    "RESET_BARE": ("other end", "the pod's own address"),
}


def reset_rows(node: str, values: npt.NDArray[Any], kinds: Mapping[str, int]) -> list[Row]:
    """Rows of each kind of reset; ``values[kind, cpu]`` are packets, ``kinds`` the enum."""
    packets = values.sum(axis=1, dtype="uint64").tolist()
    return [
        {"node": node, "receiver": who, "source": source, "packets": packets[kinds[name]]}
        for name, (who, source) in _RESETS.items()
    ]
