"""One kvstoremesh for each etcd: a second one that waits is found."""

from __future__ import annotations

from clustermesh.foreign import Locks
from clustermesh.remote import wire
from clustermesh.store.follow import Batch, Entry

HOLDER, OTHER = f"{wire.MESH_LOCK}1f", f"{wire.MESH_LOCK}0a"


def entry(key: str, revision: int) -> Entry:
    return Entry(key, b"", revision, revision, 1)


def test_who_waits_for_a_minute_is_found_until_it_has_the_lock() -> None:
    now = [0.0]
    locks = Locks(lambda: now[0])
    locks.take(Batch(5, [entry(HOLDER, 5)]))
    now[0] = 100
    assert list(locks.findings()) == []
    locks.take(Batch(9, [entry(OTHER, 9), Entry("cilium/cluster-config/x", b"", 9, 9, 1)]))
    now[0] = 150
    assert list(locks.findings()) == []  # its predecessor's lease may not have ended
    now[0] = 161
    [finding] = locks.findings()
    assert (finding.code, finding.object) == ("M140", OTHER)
    assert HOLDER in finding.text
    locks.take(Batch(12, (), [HOLDER]))
    assert list(locks.findings()) == []
