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


def test_a_group_without_rows_of_a_needed_input_is_not_made() -> None:
    rows: Table[int, int] = Table("row")
    asked: Table[int, int] = Table("asked")
    out: Table[int, int] = Table("sum")
    made: list[int] = []

    def total(group: int, wanted: dict[int, int], found: dict[int, int]) -> dict[int, int]:
        made.append(group)
        return {group: sum(wanted.values()) + sum(found.values())}

    def last_digit(key: int, _: int) -> list[int]:
        return [key % 10]

    grouped = Grouped(out, total, By(asked, last_digit, needed=True), By(rows, last_digit))
    asked.replace({1: 100})
    rows.replace({1: 1, 11: 2, 2: 3})
    grouped.run()
    assert (made, out.rows) == ([1], {1: 103})
    rows.upsert({12: 4, 21: 5})
    grouped.run()
    assert (made, out.rows) == ([1, 1], {1: 108})
    asked.upsert({2: 200})
    asked.delete([1])
    grouped.run()
    assert out.rows == {2: 207}
