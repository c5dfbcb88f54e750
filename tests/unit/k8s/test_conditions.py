"""What the leader says about an object of ours: conditions and Events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.feed.findings import NOT_ACKNOWLEDGED
from mesh.core.findings import Code
from mesh.core.model import Finding
from mesh.k8s import conditions
from mesh.k8s.api import Api, Away, Refused
from mesh.k8s.conditions import Condition, Owned
from mesh.k8s.write_back import WriteBack
from mesh.objects.findings import DUPLICATE, REFUSED

NOW, LATER = "2026-11-30T09:00:00Z", "2026-11-30T10:00:00Z"
CONFLICT = Code("E399", "Two policies want something.", "Remove one.")
PATH = "/apis/meshgate.io/v1alpha1/egresspolicies/erp"
NAME = "EgressPolicy/erp"


def owned(*held: Condition, generation: int = 3) -> Owned:
    version = "meshgate.io/v1alpha1"
    return Owned(version, "EgressPolicy", "", "erp", PATH, "uid-1", generation, held)


def finding(code: Code, text: str = "is wrong", field: str = "spec.addresses") -> Finding:
    return Finding(code, NAME, field, text)


def says(made: tuple[Condition, ...]) -> dict[str, tuple[str, str, str]]:
    return {one.type: (one.status, one.reason, one.message) for one in made}


def test_an_object_without_findings_is_accepted_and_healthy() -> None:
    made = conditions.wanted(owned(), (), (), NOW)
    assert says(made) == {
        "Accepted": ("True", "Used", "the object is used as it is written"),
        "Programmed": ("True", "OnAllNodes", "every node holds it"),
        "Healthy": ("True", "NoFinding", "no finding"),
    }
    assert {(one.observed_generation, one.last_transition_time) for one in made} == {(3, NOW)}


@pytest.mark.parametrize(("code", "reason"), [(REFUSED, "Invalid"), (DUPLICATE, "Duplicate")])
def test_a_document_that_is_not_used_is_not_accepted(code: Code, reason: str) -> None:
    made = says(conditions.wanted(owned(), [finding(code)], (), NOW))
    assert made["Accepted"] == ("False", reason, "spec.addresses: is wrong")
    assert made["Healthy"][0] == "True"
    assert made["Programmed"][:2] == ("False", "NotAccepted")


def test_a_node_that_lacks_the_generation_is_named() -> None:
    made = says(conditions.wanted(owned(), (), ["n1", "n2"], NOW))
    assert made["Programmed"] == ("False", "NodesLackIt", "not yet on n1, n2")
    many = says(conditions.wanted(owned(), (), [f"n{n}" for n in range(9)], NOW))
    assert many["Programmed"][2] == "not yet on n0, n1, n2, n3, n4 and 4 more"
    assert made["Accepted"][0] == made["Healthy"][0] == "True"


def test_other_findings_have_their_code_as_reason_and_all_of_their_words() -> None:
    found = [finding(CONFLICT, "b", "f2"), finding(CONFLICT, "a", "f1")]
    made = says(conditions.wanted(owned(), found, (), NOW))
    assert made["Healthy"] == ("False", "E399", "f1: a; f2: b")
    assert made["Accepted"][0] == "True"


def test_what_waits_for_firewalls_has_a_condition_of_its_own() -> None:
    waits = finding(NOT_ACKNOWLEDGED, "198.51.100.10 waits for pan")
    made = conditions.wanted(owned(), [waits], (), NOW)
    text = "spec.addresses: 198.51.100.10 waits for pan"
    assert says(made)["FirewallAcknowledged"] == ("False", "Waits", text)
    assert says(made)["Healthy"][0] == "False"
    after = conditions.wanted(owned(*made), (), (), LATER)
    assert says(after)["FirewallAcknowledged"][:2] == ("True", "Acknowledged")
    assert "FirewallAcknowledged" not in says(conditions.wanted(owned(), (), (), NOW))


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = conditions.wanted(owned(), (), (), NOW)
    again = conditions.wanted(owned(*first, generation=4), (), (), LATER)
    assert {one.last_transition_time for one in again} == {NOW}
    assert conditions.differs(owned(*first, generation=4), again), "another generation is observed"
    wrong = conditions.wanted(owned(*first), [finding(REFUSED)], (), LATER)
    assert {one.type: one.last_transition_time for one in wrong} == {
        "Accepted": LATER,
        "Programmed": LATER,
        "Healthy": NOW,
    }


def test_what_stands_in_a_status_of_another_form_counts_for_nothing() -> None:
    document = {"metadata": {"uid": "u", "generation": 2}, "status": {"conditions": "none"}}
    one = conditions.owned("v", "K", "", "erp", PATH, document)
    assert (one.uid, one.generation, one.conditions) == ("u", 2, ())


class FakeWrites(Api):
    """Takes writes as an API server does, and shows them to the informer's side."""

    def __init__(self, objects: dict[str, Owned]) -> None:
        self.objects, self.sent = objects, list[tuple[str, str]]()
        self.events: dict[str, Any] = {}
        self.problem: Exception | None = None

    async def send(
        self, method: str, path: str, params: Mapping[str, str], body: Any, content: str
    ) -> bytes:
        assert params["fieldManager"] == "meshgate"
        assert content
        self.sent.append((method, path))
        if self.problem:
            raise self.problem
        json.dumps(body)
        if method == "PATCH":
            one = conditions.owned("v", "K", "", "erp", PATH, {**body, "metadata": {"uid": "u"}})
            old = self.objects[NAME]
            self.objects[NAME] = owned(*one.conditions, generation=old.generation)
        elif body["metadata"]["name"] in self.events:
            raise Refused(409, "exists")
        else:
            self.events[body["metadata"]["name"]] = body
        return b""


class Rig:
    def __init__(self) -> None:
        self.objects = {NAME: owned()}
        self.api = FakeWrites(self.objects)
        self.found: list[Finding] = []
        self.lacking: list[str] = []
        self.start()

    def start(self) -> None:
        """A new leader."""
        self.written = WriteBack(
            self.api, self.objects, lambda: self.found, lambda: True, lambda *_: self.lacking
        )

    def look(self) -> list[tuple[str, str]]:
        self.api.sent.clear()
        asyncio.run(self.written.look())
        return list(self.api.sent)


STATUS = ("PATCH", f"{PATH}/status")
EVENT = ("POST", "/api/v1/namespaces/default/events")


def test_nothing_is_written_when_nothing_has_changed() -> None:
    rig = Rig()
    assert rig.look() == [STATUS]
    assert rig.look() == []
    rig.found = [finding(CONFLICT), Finding(CONFLICT, "EgressPolicy/other", "", "is not here")]
    assert rig.look() == [STATUS, EVENT]
    assert rig.look() == []
    (event,) = rig.api.events.values()
    assert (event["reason"], event["message"]) == ("E399", "spec.addresses: is wrong")
    assert event["involvedObject"]["uid"] == "uid-1"


def test_programmed_is_written_when_the_last_node_holds_it() -> None:
    rig = Rig()
    rig.lacking = ["n1", "n2"]
    assert rig.look() == [STATUS]
    rig.lacking = ["n2"]
    assert rig.look() == [], "the words alone differ"
    rig.lacking = []
    assert rig.look() == [STATUS]
    held = {one.type: one.status for one in rig.objects[NAME].conditions}
    assert held == {"Accepted": "True", "Programmed": "True", "Healthy": "True"}


def test_what_another_has_overwritten_comes_back() -> None:
    rig = Rig()
    rig.look()
    rig.objects[NAME] = owned()
    assert rig.look() == [STATUS]


def test_words_that_change_all_the_time_are_written_once_a_minute() -> None:
    rig = Rig()
    rig.found = [finding(CONFLICT, "for 1 s")]
    assert rig.look() == [STATUS, EVENT]
    rig.found = [finding(CONFLICT, "for 2 s")]
    assert rig.look() == []


def test_a_cause_has_one_event_whoever_leads() -> None:
    rig = Rig()
    rig.found = [finding(CONFLICT)]
    rig.look()
    rig.start()
    assert rig.look() == [EVENT]
    assert len(rig.api.events) == 1
    assert not rig.written.problems


def test_a_write_that_fails_is_a_finding_until_it_succeeds() -> None:
    rig = Rig()
    rig.api.problem = Refused(403, "may not")
    rig.look()
    (found,) = rig.written.findings("API server x")
    assert (found.code, found.field, found.text) == ("M209", "patch status", "may not")
    rig.api.problem = Away("no answer")
    rig.look()
    rig.api.problem = None
    assert rig.look() == [STATUS]
    assert not list(rig.written.findings("API server x"))
    rig.found, rig.api.problem = [finding(CONFLICT)], Away("no answer")
    assert rig.look() == [STATUS, EVENT]
    rig.api.problem = None
    assert rig.look() == [STATUS, EVENT]
