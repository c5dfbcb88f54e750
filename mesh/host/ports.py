"""Lists of ports as the kernel writes them: ``8080,9000-9010``. Pure."""

from __future__ import annotations

from collections.abc import Iterator


def with_ports(text: str, ports: range) -> str:
    """The list with ``ports`` in it, in the kernel's own form, so that it compares as text.

    Source: ``proc_do_large_bitmap`` of kernel/sysctl.c prints each run of bits as ``first-last``.
    """
    spans = sorted([*_spans(text), (ports.start, ports.stop - 1)])
    joined = [spans[0]]
    for first, last in spans[1:]:
        before = joined[-1]
        if first <= before[1] + 1:
            joined[-1] = before[0], max(before[1], last)
        else:
            joined.append((first, last))
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in joined)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        yield int(first), int(last or first)
