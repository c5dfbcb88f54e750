"""Derivations by group: what one change does to the rows of the others."""

from mesh.core.groups import By, Grouped
from mesh.core.table import Table


def doubled(key: int, row: int | None) -> dict[int, int]:
    return {key: 2 * row} if row is not None else {}


def test_a_change_leaves_the_rows_of_the_other_groups_alone() -> None:
    rows: Table[int, int] = Table("row")
    out: Table[int, int] = Table("doubled")
    grouped = Grouped(out, doubled, By(rows))
    rows.replace({1: 1, 2: 2})
    grouped.run()
    rows.upsert({3: 3})
    grouped.run()
    assert out.rows == {1: 2, 2: 4, 3: 6}


def test_rows_from_before_the_first_run_go_when_no_group_makes_them() -> None:
    rows: Table[int, int] = Table("row")
    out: Table[int, int] = Table("doubled")
    out.upsert({1: 2, 9: 18})
    grouped = Grouped(out, doubled, By(rows))
    rows.replace({1: 1})
    grouped.run()
    assert out.rows == {1: 2}
