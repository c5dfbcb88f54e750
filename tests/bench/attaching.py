"""How long a container runtime waits for a pod: the real plugin and agent, ready sandboxes.

The pods' objects are known before, and other pods have their identities. "New labels": each pod has
labels of its own, which the controller claims an identity for meanwhile.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.say import say
from tests.lab.runtime import Node, Said, running, wait

#: Calls of each row; p99 of 100 is the slowest but one.
CALLS, NEW = 100, 30
IN_FLIGHT = 10
RATE = 10.0
#: Aims of the issue, ms.
AIMS = {"ADD 1": (20, None), "ADD rate": (None, 50), "ADD labels": (100, None)}


@dataclass(frozen=True, slots=True)
class Wait:
    """Milliseconds from exec to exit; ``aims`` are those of p50 and p99."""

    what: str
    p50: float
    p99: float
    aims: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True)
class _Pod:
    name: str
    space: Path

    @property
    def container(self) -> str:
        return f"c-{self.name}"


def measure() -> list[Wait]:
    """ADD and DEL one after the other, ten at once, ten a second, and with new labels."""
    say("pods of a container runtime")
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as node:
        node.pod("first")
        node.call("ADD", node.sandbox(), "c-first", pod="first")
        return list(_rows(node))


def _rows(node: Node) -> Iterator[Wait]:
    with _pods(node, "one", CALLS) as pods:
        yield _wait("ADD, one after the other", map(_add(node), pods), "ADD 1")
        yield _wait("DEL, one after the other", map(_delete(node), pods))
    with _pods(node, "many", CALLS) as pods, ThreadPoolExecutor(IN_FLIGHT) as pool:
        yield _wait(f"ADD, {IN_FLIGHT} in flight", pool.map(_add(node), pods))
        yield _wait(f"DEL, {IN_FLIGHT} in flight", pool.map(_delete(node), pods))
    with _pods(node, "rate", CALLS) as pods:
        yield _wait(f"ADD, {RATE:g}/s", _paced(_add(node), pods), "ADD rate")
        yield _wait(f"DEL, {RATE:g}/s", _paced(_delete(node), pods))
    with _pods(node, "new", NEW, labels=True) as pods:
        yield _wait("ADD, new labels", map(_add(node), pods), "ADD labels")


@contextmanager
def _pods(node: Node, kind: str, count: int, *, labels: bool = False) -> Iterator[Sequence[_Pod]]:
    """Objects and sandboxes of pods; they go at the end."""
    pods = [_Pod(f"{kind}-{number}", node.sandbox()) for number in range(count)]
    for pod in pods:
        node.pod(pod.name, f"app-{pod.name}" if labels else "web")
    time.sleep(2)  # the folder is looked at every 0.2 s
    try:
        yield pods
    finally:
        for pod in pods:
            node.call("DEL", pod.space, pod.container)
            node.drop(pod.name)
        wait(lambda: len(node.devices()) == 1, 30, "the devices are gone")


def _add(node: Node) -> Callable[[_Pod], Said]:
    return lambda pod: node.call("ADD", pod.space, pod.container, pod=pod.name)


def _delete(node: Node) -> Callable[[_Pod], Said]:
    return lambda pod: node.call("DEL", pod.space, pod.container, pod=pod.name)


def _paced(act: Callable[[_Pod], Said], pods: Sequence[_Pod]) -> Iterator[Said]:
    """So many a second, however long each takes."""
    begin = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT * 2) as pool:
        running = []
        for number, pod in enumerate(pods):
            time.sleep(max(begin + number / RATE - time.monotonic(), 0))
            running.append(pool.submit(act, pod))
        yield from (one.result() for one in running)


def _wait(what: str, said: Iterator[Said], aim: str = "") -> Wait:
    answers = list(said)
    assert all(one.status == 0 for one in answers), [one.text for one in answers if one.status]
    times = sorted(1000 * one.took_s for one in answers)
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return Wait(what, cuts[49], cuts[98], AIMS.get(aim, (None, None)))
