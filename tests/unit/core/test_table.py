"""Tables: what changed since a revision, and nothing else."""

import numpy as np

from mesh.core.table import LOG_SLACK, ColumnTable, Table

VALUE = np.dtype([("identity", "u4"), ("node", ">u4")])


def column_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    raw = b"".join(i.to_bytes(16, "big") for i in range(count))
    values = np.zeros(count, VALUE)
    values["identity"] = np.arange(count)
    return np.frombuffer(raw, "V16"), values


def test_changes_name_only_what_changed_since_the_revision() -> None:
    table: Table[str, int] = Table("t")
    table.upsert({"a": 1, "b": 2})
    seen = table.revision
    table.upsert({"b": 3, "c": 4})
    table.delete(["a"])
    changes = table.changes(seen)
    assert changes is not None
    assert changes.upsert == {"b": 3, "c": 4}
    assert changes.delete == {"a"}


def test_an_equal_row_changes_nothing() -> None:
    table: Table[str, int] = Table("t")
    table.upsert({"a": 1})
    seen = table.revision
    assert table.upsert({"a": 1}) == 0
    assert table.revision == seen


def test_a_key_that_was_deleted_and_came_back_is_an_upsert() -> None:
    table: Table[str, int] = Table("t")
    table.upsert({"a": 1})
    seen = table.revision
    table.delete(["a"])
    table.upsert({"a": 1})
    changes = table.changes(seen)
    assert changes is not None
    assert changes.upsert == {"a": 1}
    assert not changes.delete


def test_replace_marks_the_table_synced_and_deletes_the_rest() -> None:
    table: Table[str, int] = Table("t")
    table.upsert({"a": 1, "b": 2})
    assert not table.synced
    table.replace({"b": 2})
    assert table.synced
    assert table.rows == {"b": 2}


def test_a_log_that_was_cut_says_so() -> None:
    table: Table[int, int] = Table("t")
    table.upsert(dict.fromkeys(range(2 * LOG_SLACK), 0))
    seen = table.revision
    for key in range(2 * LOG_SLACK):
        table.delete([key])
    assert table.changes(seen) is None
    assert table.changes(table.revision) is not None


def test_listeners_hear_of_changes_and_of_the_first_sync_only() -> None:
    table: Table[str, int] = Table("t")
    heard: list[int] = []
    table.listen(lambda: heard.append(table.revision))
    table.upsert({"a": 1})
    table.upsert({"a": 1})
    table.mark_synced()
    table.mark_synced()
    assert heard == [1, 1]


def test_one_changed_column_row_is_the_only_change() -> None:
    table = ColumnTable("address", "V16", VALUE)
    keys, values = column_rows(5000)
    table.upsert(keys, values)
    seen = table.revision
    changed = values[7:8].copy()
    changed["node"] = 9
    assert table.upsert(keys[7:8], changed) == 1
    changes = table.changes(seen)
    assert changes is not None
    assert changes.keys.tolist() == keys[7:8].tolist()
    assert changes.values.tolist() == changed.tolist()
    assert len(changes.deleted) == 0


def test_column_rows_are_deleted_once_and_can_come_back() -> None:
    table = ColumnTable("address", "V16", VALUE)
    keys, values = column_rows(10)
    table.upsert(keys, values)
    seen = table.revision
    assert table.delete(np.concatenate([keys[:2], keys[:1]], dtype=keys.dtype)) == 3
    table.upsert(keys[:1], values[:1])
    changes = table.changes(seen)
    assert changes is not None
    assert changes.keys.tolist() == keys[:1].tolist()
    assert changes.deleted.tolist() == keys[1:2].tolist()
    assert len(table) == 9


def test_a_column_row_of_zeros_is_a_row() -> None:
    table = ColumnTable("address", "V16", VALUE)
    keys, values = column_rows(1)
    assert table.upsert(keys, values) == 1
    got = table.get(keys[0].tobytes())
    assert got is not None
    assert int(got["identity"]) == 0


def test_column_replace_keeps_the_dtype_of_big_endian_fields() -> None:
    table = ColumnTable("address", "V16", VALUE)
    keys, values = column_rows(3)
    values["node"] = 0x0A000001
    table.replace(keys, values)
    table.replace(keys[1:], values[1:])
    got_keys, got = table.rows()
    assert sorted(got_keys.tolist()) == sorted(keys[1:].tolist())
    assert got.dtype == VALUE
    assert got["node"].tobytes() == b"\x0a\x00\x00\x01" * 2


def test_a_row_that_is_none_is_a_row() -> None:
    table: Table[str, None] = Table("t")
    assert table.upsert({"a": None}) == 1
    assert table.upsert({"a": None}) == 0
    assert dict(table.rows) == {"a": None}
