"""Two sources of objects as one: whose object counts, and when everything is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from mesh.core.findings import Code
from mesh.core.model import Finding, Pod, PodKey
from mesh.core.table import LOG_SLACK
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import HOST_PODS, NODES, PODS
from mesh.objects.sources import Sources
from mesh.objects.tables import Objects

IN_BOTH = Code("M399", "An object is in two places.", "Remove one.")
WRONG = Code("M398", "Something is wrong.", "Mend it.")
KEY = PodKey("east", "shop", "web")
POD = Pod("east", "shop", "web", node="east-1", labels=())


class FakeSource:
    """A source that has what a test puts into its tables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects = Objects(KINDS.nouns)

    async def run(self) -> None:
        """Nothing comes by itself."""

    def place(self, noun: str, key: Any) -> str:
        return f"{self.name} {noun}/{key.name}"

    def findings(self) -> Iterable[Finding]:
        return ()

    def write_back(self, _: object, __: object, ___: object) -> Callable[[], Any] | None:
        return None

    @property
    def generations(self) -> Mapping[str, int]:
        return {}


class Rig:
    def __init__(self) -> None:
        self.folder, self.server = FakeSource("folder"), FakeSource("server")
        found = {"manifests": self.folder, "API server": self.server}
        self.sources = Sources(found, KINDS, IN_BOTH)
        self.objects = self.sources.objects

    def step(self) -> None:
        merged = self.sources.merged
        assert merged
        for _ in merged.step():
            pass

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        found = self.objects.findings.rows.values()
        return sorted((one.code, one.object, one.text) for one in found)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_source_is_taken_as_it_is() -> None:
    only = FakeSource("folder")
    sources = Sources({"manifests": only}, KINDS, IN_BOTH)
    assert sources.objects is only.objects
    assert list(sources.jobs()) == ["manifests"]


def test_the_first_source_counts_and_both_are_named(rig: Rig) -> None:
    rig.server.objects[PODS].upsert({KEY: POD})
    rig.step()
    assert rig.objects[PODS].rows == {KEY: POD}
    mine = replace(POD, node="east-9")
    rig.folder.objects[PODS].upsert({KEY: mine})
    rig.step()
    assert rig.objects[PODS].rows == {KEY: mine}
    assert rig.findings == [("M399", "server pod/web", "also in folder pod/web, which counts")]
    rig.server.objects[PODS].upsert({KEY: replace(POD, node="east-3")})
    rig.step()
    assert rig.objects[PODS].rows == {KEY: mine}
    rig.folder.objects[PODS].delete([KEY])
    rig.step()
    assert rig.objects[PODS].rows[KEY].node == "east-3"
    assert rig.findings == []


def test_a_pod_has_one_row_whichever_network_it_is_in(rig: Rig) -> None:
    of_host = replace(POD, addresses=(ip_address("10.99.0.11"),))
    rig.server.objects[HOST_PODS].upsert({KEY: of_host})
    rig.folder.objects[PODS].upsert({KEY: POD})
    rig.step()
    assert rig.objects[PODS].rows == {KEY: POD}
    assert not rig.objects[HOST_PODS].rows
    assert [code for code, *_ in rig.findings] == ["M399"]
    rig.folder.objects[PODS].delete([KEY])
    rig.step()
    assert not rig.objects[PODS].rows
    assert rig.objects[HOST_PODS].rows == {KEY: of_host}


def test_a_table_is_synced_once_both_sources_are(rig: Rig) -> None:
    rig.folder.objects[NODES].mark_synced()
    rig.step()
    assert not rig.objects[NODES].synced
    rig.server.objects[NODES].mark_synced()
    rig.step()
    assert rig.objects[NODES].synced
    assert not rig.objects[PODS].synced


def test_findings_of_both_sources_stand_side_by_side(rig: Rig) -> None:
    here, there = (Finding(WRONG, "Pod/shop/web", "spec", text) for text in ("here", "there"))
    rig.folder.objects.findings.upsert({"same": here})
    rig.server.objects.findings.upsert({"same": there})
    rig.step()
    assert [text for *_, text in rig.findings] == ["here", "there"]
    rig.folder.objects.findings.delete(["same"])
    rig.step()
    assert [text for *_, text in rig.findings] == ["there"]


def test_changes_that_the_log_no_longer_has_are_found(rig: Rig) -> None:
    rows = {PodKey("east", "shop", f"p{n}"): replace(POD, name=f"p{n}") for n in range(10)}
    rig.server.objects[PODS].upsert(rows)
    rig.step()
    gone = next(iter(rows))
    rig.server.objects[PODS].delete([gone])
    for number in range(3 * LOG_SLACK):
        rig.server.objects[PODS].upsert({KEY: replace(POD, node=f"n{number}")})
    assert rig.server.objects[PODS].changes(1) is None
    rig.step()
    assert rig.objects[PODS].rows == dict(rig.server.objects[PODS].rows)
