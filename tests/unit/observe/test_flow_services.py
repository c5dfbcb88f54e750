"""``flow list`` and ``flow watch`` name the service asked in the rows of all nodes."""

from __future__ import annotations

import pytest

from mesh.core.noun import Row
from mesh.observe import asked
from mesh.observe.asked import WAIT_S, Following, with_services

CLIENT, WEB = ("10.1.0.8", 40000), ("10.1.1.7", 8080)


def row(node: str, second: int, service: str | None = None, source: tuple[str, int] = CLIENT,
        protocol: str = "TCP") -> Row:  # fmt: skip
    ends = {"source": source, "destination": WEB}
    shown = {side: {"address": address, "port": port} for side, (address, port) in ends.items()}
    time = f"2026-11-30T08:00:{second:02}.123456789Z"
    return {"node": node, "time": time, "service": service, "protocol": protocol, **shown}


def services(*rows: Row) -> list[str | None]:
    return [one["service"] for one in with_services(rows)]


def test_the_row_of_the_other_node_names_the_service_that_the_sender_asked() -> None:
    rows = row("east-1", 1, "shop/web"), row("east-2", 1)
    assert services(*rows) == ["shop/web", "shop/web"]
    assert services(*reversed(rows)) == ["shop/web", "shop/web"], "whichever comes first"
    assert rows[1]["service"] is None, "rows are not changed in place"


def test_another_connection_to_the_same_backend_has_no_service() -> None:
    """It may have asked for the backend itself."""
    first = row("east-1", 1, "shop/web")
    assert services(first, row("east-2", 1, source=("10.1.0.8", 40001)))[1] is None
    assert services(first, row("east-2", 1, protocol="UDP"))[1] is None
    assert services(first, row("east-2", 40))[1] is None, "the port has another connection by then"


def test_clocks_of_nodes_may_differ() -> None:
    assert services(row("east-1", 9, "shop/web"), row("east-2", 1))[1] == "shop/web"


def shown(following: Following, now: float) -> list[tuple[str, str | None]]:
    return [(str(one["node"]), one["service"]) for one in following.due(now)]


def test_a_row_that_is_followed_waits_for_that_of_the_senders_node() -> None:
    following = Following()
    assert following.rest_s(5.0) is None
    following.put(row("east-2", 1), 5.0)
    following.put(row("east-1", 1, "shop/web"), 5.25)
    assert following.rest_s(5.25) == WAIT_S - 0.25
    assert shown(following, 5.0 + WAIT_S) == [("east-2", "shop/web")]
    following.put(row("east-2", 2), 6.0)
    assert shown(following, 7.0) == [("east-1", "shop/web"), ("east-2", "shop/web")]
    assert following.rest_s(7.0) is None


def test_a_row_whose_sender_is_not_followed_comes_without_a_service() -> None:
    following = Following()
    following.put(row("east-2", 1), 0.0)
    assert shown(following, 0.0) == []
    assert shown(following, WAIT_S) == [("east-2", None)]


def test_rows_go_on_by_the_time_of_their_event() -> None:
    following = Following()
    for node, second in (("b", 3), ("c", 1), ("a", 2)):
        following.put(row(node, second), 0.0)
    assert [node for node, _ in shown(following, 1.0)] == ["c", "a", "b"]


def test_services_are_remembered_for_a_number_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood of connections costs no memory without end."""
    monkeypatch.setattr(asked, "_REMEMBERED", 3)
    following = Following()
    for port in range(5):
        following.put(row("east-1", 1, "shop/web", source=("10.1.0.8", port)), 0.0)
    assert len(shown(following, 1.0)) == 5
    for port in range(5):
        following.put(row("east-2", 2, source=("10.1.0.8", port)), 1.0)
    assert [service for _, service in shown(following, 2.0)] == [None, None, *["shop/web"] * 3]
