"""Sizes of maps from the configuration, in every object that has the map."""

from collections.abc import Iterator

import pytest

from bpf.build import HERE, build
from bpf.libbpf import LoadError
from bpf.object import Object
from mesh.datapath.programs import OBJECTS, SIZABLE, set_sizes


@pytest.fixture
def opened() -> Iterator[list[Object]]:
    build()
    objects = [Object.open(HERE / "obj" / f"{name}.o") for name in OBJECTS]
    yield objects
    for one in objects:
        one.close()


def digests(objects: list[Object]) -> list[bytes]:
    return [one.digest() for one in objects]


def test_a_size_goes_to_every_object_that_has_the_map(opened: list[Object]) -> None:
    before = digests(opened)
    set_sizes(opened, {"mg_node": 64})
    having = ["mg_node" in one.specs for one in opened]
    assert sum(having) > 1
    assert [old != new for old, new in zip(before, digests(opened), strict=True)] == having


def test_the_defaults_change_nothing(opened: list[Object]) -> None:
    before = digests(opened)
    set_sizes(opened, {})
    assert digests(opened) == before


def test_the_defaults_hold_what_they_promise(opened: list[Object]) -> None:
    """150,000 pods and 5,000 nodes of both families, 10,000 services, 300,000 backends."""
    sizes = {name: spec.max_entries for one in opened for name, spec in one.specs.items()}
    assert sizes["mg_address"] >= 2 * (150_000 + 5_000)
    assert sizes["mg_addr_cidr"] >= 2 * 5_000
    assert sizes["mg_node"] >= 5_000
    assert sizes["mg_service_addr"] >= 2 * 2 * 10_000  # two families, two ports
    assert sizes["mg_backend_addr"] >= 2 * 300_000
    assert sizes["mg_block"] >= 1_000 * 252  # 1,000 addresses given away


@pytest.mark.parametrize("name", ["mg_nothing", "mg_slot", "mg_event"])
def test_what_has_no_size_to_choose_is_refused_by_name(opened: list[Object], name: str) -> None:
    with pytest.raises(LoadError, match=rf"limits: {name}: expected one of .*mg_egress"):
        set_sizes(opened, {name: 64})


def test_tables_of_programs_keep_their_size(opened: list[Object]) -> None:
    """What is addressed by number has as many entries as the programs have numbers."""
    kinds = {name: spec.type for one in opened for name, spec in one.specs.items()}
    assert {name for name, kind in kinds.items() if kind not in SIZABLE} >= {"mg_slot", "mg_drop"}
