"""A watch that is read ahead: nothing is lost, and a key that changes for ever costs one event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Compacted, Watched
from clustermesh.store.ahead import ahead

Step = Watched | Exception


def put(revision: int, key: str = "a") -> Watched:
    kv = pb.KeyValue(key=key.encode(), mod_revision=revision)
    return Watched(revision, [pb.Event(kv=kv)])


def created(revision: int) -> Watched:
    return Watched(revision, (), created=True)


class Watch:
    """Gives what it is told; ``read`` counts what was taken of it."""

    def __init__(self, *steps: Step) -> None:
        self.steps, self.read, self.closed = list(steps), 0, False

    async def run(self) -> AsyncGenerator[Watched, None]:
        try:
            for step in self.steps:
                self.read += 1
                if isinstance(step, Exception):
                    raise step
                yield step
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed = True


def events(seen: Watched) -> list[tuple[str, int]]:
    return [(event.kv.key.decode(), event.kv.mod_revision) for event in seen.events]


def lived(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 5))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_comes_while_nobody_takes_it_is_one_message() -> None:
    watch = Watch(created(1), put(2, "a"), put(3, "b"), put(4, "a"), Watched(9))

    async def run() -> None:
        async with aclosing(ahead(watch.run())) as messages:
            assert (await anext(messages)).created
            await turns()
            assert watch.read == 5
            seen = await anext(messages)
            assert (seen.revision, events(seen)) == (9, [("b", 3), ("a", 4)])

    lived(run)
    assert watch.closed


def test_a_new_connection_keeps_its_place() -> None:
    watch = Watch(created(1), put(2), created(3), put(4), put(5))

    async def run() -> None:
        async with aclosing(ahead(watch.run())) as messages:
            await anext(messages)
            await turns()
            got = [await anext(messages) for _ in range(3)]
            assert [(one.created, events(one)) for one in got] == [
                (False, [("a", 2)]), (True, []), (False, [("a", 5)]),
            ]  # fmt: skip

    lived(run)


def test_what_the_watch_raises_comes_last() -> None:
    watch = Watch(created(1), put(2), Compacted("cut"))

    async def run() -> None:
        async with aclosing(ahead(watch.run())) as messages:
            await anext(messages)
            await turns()
            assert events(await anext(messages)) == [("a", 2)]
            with pytest.raises(Compacted):
                await anext(messages)

    lived(run)


def test_whoever_leaves_ends_the_watch() -> None:
    watch = Watch(created(1))

    async def run() -> None:
        messages = ahead(watch.run())
        await anext(messages)
        waiting = asyncio.ensure_future(anext(messages))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert watch.closed

    lived(run)
