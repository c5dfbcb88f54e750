"""The process socket: server and client over real unix sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import grpc
import msgspec
import pytest

from mesh.core.noun import Rows
from mesh.core.table import Table
from mesh.observe.tables import CHUNK, SERVICE, Process, Server, answer_s, ask, processes
from tests.fixtures.serving import served

STATUS = {"role": "agent", "host": "east-1", "cluster": "east", "findings": []}


def process(path: Path) -> Process:
    return Process(path.parent.name, path.stem, path)


def dead(path: Path) -> Path:
    """Leave a socket behind, as ``kill -9`` does."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    return path


@contextmanager
def former(path: Path, tables: Mapping[str, object]) -> Iterator[None]:
    """The process socket as commit 727237a served it."""

    def rows_of(request: bytes, context: grpc.ServicerContext) -> bytes:
        noun = msgspec.json.decode(request)["noun"]
        if noun not in tables:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no table of {noun!r} here")
        return msgspec.json.encode(tables[noun])

    methods = {
        "List": grpc.unary_unary_rpc_method_handler(rows_of),
        "Status": grpc.unary_unary_rpc_method_handler(lambda *_: msgspec.json.encode(STATUS)),
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    path.parent.mkdir(exist_ok=True)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_rows_and_status_arrive_as_served(tmp_path: Path) -> None:
    """Rows arrive with the keys they were given; addresses become text."""
    rows = [{"name": "east-1", "addresses": [ip_address("10.99.0.11"), ip_address("fd99::11")]}]
    path = tmp_path / "east-1" / "agent.sock"
    with served(path, {"node": rows}, STATUS):
        (answer,) = ask([process(path)], ["node"])
    assert answer.rows == {"node": [{"name": "east-1", "addresses": ["10.99.0.11", "fd99::11"]}]}
    assert answer.status == STATUS
    assert (answer.error, answer.cluster, answer.process.name) == ("", "east", "east-1/agent")


def test_a_noun_that_a_process_does_not_serve_is_no_error(tmp_path: Path) -> None:
    """A speaker without pods is a healthy speaker."""
    path = tmp_path / "speaker.sock"
    with served(path, {"peer": []}, STATUS):
        (answer,) = ask([process(path)], ["pod", "peer"])
    assert answer.rows == {"peer": []}
    assert (answer.error, answer.refused) == ("", {})


def test_a_process_of_the_former_version_answers(tmp_path: Path) -> None:
    """Before ``Rows`` a list came as one message; during an update such processes still run."""
    path, tables = tmp_path / "east-1" / "agent.sock", {"node": [{"name": "east-1"}]}
    with former(path, tables):
        (answer,) = ask([process(path)], ["node", "peer"])
    assert (answer.rows, answer.status) == (tables, STATUS)
    assert (answer.error, answer.refused) == ("", {})


def test_a_table_that_fails_hides_nothing_else(tmp_path: Path) -> None:
    """One broken table is reported by name, the rest of the process's answer stands."""

    def broken() -> list[object]:
        raise KeyError("epoch")

    path = tmp_path / "agent.sock"
    with served(path, {"block": broken, "node": [{"name": "a"}]}, STATUS):
        (answer,) = ask([process(path)], ["block", "node"])
    assert answer.rows == {"node": [{"name": "a"}]}
    assert "epoch" in answer.refused["block"]
    assert answer.status == STATUS


def test_all_processes_are_asked_at_once(tmp_path: Path) -> None:
    """Ten processes that never answer cost one deadline, and say so; another one answers."""
    stuck = [tmp_path / f"{number}.sock" for number in range(10)]
    listening = []
    for path in stuck:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listening.append(listener)
    alive = tmp_path / "alive.sock"
    with served(alive, {"node": []}, STATUS):
        begun = time.monotonic()
        answers = ask([process(path) for path in (*stuck, alive)], ["node"], 0.2)
        took = time.monotonic() - begun
    for listener in listening:
        listener.close()
    assert [answer.error for answer in answers] == ["no answer within 0.2 s"] * len(stuck) + [""]
    assert took < 0.2 * len(stuck)


def test_dead_and_absent_processes_are_told_apart(tmp_path: Path) -> None:
    """A socket left behind is a dead process; no socket is one that is not running."""
    left = dead(tmp_path / "east-1" / "agent.sock")
    answers = ask([process(left), process(tmp_path / "east-1" / "speaker.sock")])
    assert "the process is dead" in answers[0].error
    assert "not running" in answers[1].error


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """The next process of the same name takes the path over, readable for its group only."""
    path = dead(tmp_path / "agent.sock")
    with served(path, {}, STATUS):
        assert path.stat().st_mode & 0o777 == 0o660
        (answer,) = ask([process(path)])
    assert answer.status == STATUS
    assert not path.exists()


def test_a_living_process_keeps_its_socket(tmp_path: Path) -> None:
    """A second process with the same path is refused, by name, and the first one goes on."""
    path = tmp_path / "agent.sock"
    with served(path, {}, STATUS):
        with pytest.raises(OSError, match=r"agent\.sock: another process already answers"):
            asyncio.run(Server(path, {}, dict).start())
        (answer,) = ask([process(path)])
    assert answer.status == STATUS


def test_every_process_is_found_by_socket_or_configuration(tmp_path: Path) -> None:
    """Sockets of both layouts count, and configured roles; logs and other files do not."""
    for name in ("agent.yaml", "controller2.yaml", "agent.log", "exabgp.yaml"):
        (tmp_path / "east-1").mkdir(exist_ok=True)
        (tmp_path / "east-1" / name).touch()
    dead(tmp_path / "east-1" / "controller.sock")
    dead(tmp_path / "speaker.sock")
    found = processes(tmp_path)
    assert [p.name for p in found] == ["speaker", "east-1/agent", "east-1/controller"]
    assert found[1].path == tmp_path / "east-1" / "agent.sock"


def test_a_large_table_arrives_whole(tmp_path: Path) -> None:
    """Answers may be larger than gRPC's default limit of 4 MB."""
    rows = [{"address": "2001:db8::1", "node": "n" * 1000}] * 5000
    path = tmp_path / "agent.sock"
    with served(path, {"address": rows}, STATUS):
        (answer,) = ask([process(path)], ["address"])
    assert len(answer.rows["address"]) == 5000


# Long lists


def test_a_list_arrives_whole_while_its_process_serves_others(tmp_path: Path) -> None:
    """The server's loop turns between two chunks, none of which has more than its rows."""
    turns: list[int] = [0]
    made: Counter[int] = Counter()

    def shown(number: int) -> dict[str, object]:
        made[turns[0]] += 1
        return {"address": str(ip_address(number)), "identity": number}

    rows = Rows.of(range(20_000), shown)
    path = tmp_path / "agent.sock"
    with served(path, {"address": lambda: rows}, STATUS) as loop:
        counting = asyncio.run_coroutine_threadsafe(count_turns(turns), loop)
        (answer,) = ask([process(path)], ["address"], patient=True)
        loop.call_soon_threadsafe(counting.cancel)
    assert answer.refused == {}
    assert [row["identity"] for row in answer.rows["address"]] == list(range(20_000))
    assert max(made.values()) <= CHUNK


async def count_turns(turns: list[int]) -> None:
    """Count the turns of the loop, for ever."""
    while True:
        await asyncio.sleep(0)
        turns[0] += 1


def test_a_slow_list_is_whole_as_long_as_it_goes_on(tmp_path: Path) -> None:
    """The deadline holds for each chunk when the caller is patient, for the whole otherwise."""

    def part(begin: int, end: int) -> list[dict[str, object]]:
        time.sleep(0.02)
        return [{"id": number} for number in range(begin, end)]

    path = tmp_path / "agent.sock"
    with served(path, {"identity": lambda: Rows(1000, part)}, STATUS):
        (slow,) = ask([process(path)], ["identity"], 0.3, patient=True)
        (late,) = ask([process(path)], ["identity"], 0.3)
    assert (len(slow.rows["identity"]), slow.refused) == (1000, {})
    assert late.refused == {"identity": "no answer within 0.3 s"}
    assert 0 < len(late.rows["identity"]) < 1000


def test_a_list_is_as_it_was_when_it_was_asked_for(tmp_path: Path) -> None:
    """Rows are taken at one time, and made later."""
    table: Table[int, int] = Table("number")
    table.upsert(dict.fromkeys(range(5000), 0))

    def shown(item: tuple[int, int]) -> dict[str, object]:
        table.upsert({item[0]: 1, 4999: 1})
        return {"number": item[0], "value": item[1]}

    path = tmp_path / "agent.sock"
    with served(path, {"number": lambda: Rows.of(table.rows.items(), shown)}, STATUS):
        (answer,) = ask([process(path)], ["number"])
    assert {row["value"] for row in answer.rows["number"]} == {0}
    assert len(answer.rows["number"]) == 5000


def test_rows_of_a_snapshot_are_a_sequence() -> None:
    rows = Rows.of("abcdef", lambda letter: {"letter": letter})
    assert len(rows) == 6
    assert rows[-1] == {"letter": "f"}
    assert list(rows[1:3]) == [{"letter": "b"}, {"letter": "c"}]
    assert [row["letter"] for row in rows[::2]] == ["a", "c", "e"]
    assert [row["letter"] for row in rows] == list("abcdef")
    with pytest.raises(IndexError):
        rows[6]


@pytest.mark.parametrize(("text", "seconds"), [(None, 2.0), ("", 2.0), ("6", 6.0), ("0.5", 0.5)])
def test_the_environment_says_how_long_answers_may_take(text: str | None, seconds: float) -> None:
    assert answer_s(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "601"])
def test_no_number_of_seconds_ends_the_command(text: str) -> None:
    with pytest.raises(SystemExit, match=f"MESHGATE_ANSWER_S={text}"):
        answer_s(text)
