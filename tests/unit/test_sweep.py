"""How long entries rest, by how many there are."""

from mesh.sweep import CROWDED, LIMITS, limits


def test_closed_connections_rest_for_minutes_while_there_is_room() -> None:
    assert limits(CROWDED - 1) == LIMITS


def test_a_crowded_table_keeps_closed_connections_for_seconds_and_others_as_before() -> None:
    crowded = limits(CROWDED)
    assert crowded["closed"] < 30
    assert {name for name in LIMITS if crowded[name] != LIMITS[name]} == {"closed"}
