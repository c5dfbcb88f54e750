"""``flow list`` names the service asked in the rows of all nodes that saw the connection."""

from __future__ import annotations

from mesh.core.noun import Row
from mesh.observe.watch import with_services

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
