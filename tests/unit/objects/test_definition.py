"""CustomResourceDefinitions from document Structs."""

from pathlib import Path
from typing import Any

import pytest

from mesh.objects import crds

BY_KIND = {one["spec"]["names"]["kind"]: one for one in crds.definitions()}


def schema(kind: str, *path: str) -> Any:
    (version,) = BY_KIND[kind]["spec"]["versions"]
    found = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for step in path:
        found = found["items"] if step == "[]" else found["properties"][step]
    return found


def test_the_files_are_those_of_the_sources() -> None:
    folder = Path(__file__).parent.parent.parent.parent / "deploy" / "crds"
    assert {path.name: path.read_text() for path in folder.glob("*.yaml")} == crds.texts()


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_definition_has_a_name_a_status_and_the_category(kind: str) -> None:
    made = BY_KIND[kind]
    names = made["spec"]["names"]
    (version,) = made["spec"]["versions"]
    assert made["metadata"]["name"] == f"{names['plural']}.meshgate.io"
    assert names["categories"] == ["meshgate"]
    assert names["shortNames"]
    assert version["subresources"] == {"status": {}}
    assert {one["name"] for one in version["additionalPrinterColumns"]} >= {"Accepted", "Age"}


def test_bounds_and_defaults_are_those_of_the_struct() -> None:
    hold = schema("BGPPeer", "holdSeconds")
    assert (hold["minimum"], hold["maximum"], hold["default"]) == (3, 65535, 90)
    assert "holdSeconds" not in schema("BGPPeer")["required"]
    assert set(schema("BGPPeer")["required"]) == {"nodeSelector", "asn", "localASN"}


def test_the_words_of_a_list_are_an_enumeration() -> None:
    assert schema("BGPPeer", "advertise", "[]")["enum"] == [
        "egressIPs",
        "podCIDRs",
        "services",
        "srv6Locators",
        "vrfs",
    ]


def test_addresses_and_networks_are_texts_with_rules() -> None:
    address = schema("EgressPolicy", "addresses", "[]")
    network = schema("EgressPolicy", "destinationCIDRs", "[]")
    assert address["x-kubernetes-validations"][0]["rule"] == "isIP(self)"
    assert [one["rule"] for one in network["x-kubernetes-validations"]][:1] == ["isCIDR(self)"]
    assert (address["maxLength"], network["maxLength"]) == (45, 49)


def test_a_field_that_may_be_absent_has_the_rules_of_its_type() -> None:
    def rules(*path: str) -> list[str]:
        return [one["rule"] for one in schema("BGPPeer", *path)["x-kubernetes-validations"]]

    for path in (("address",), ("localAddress",), ("overrides", "[]", "localAddress")):
        assert rules(*path) == ["isIP(self)"]
    assert rules("prefix")[0] == "isCIDR(self)"
    assert "family() == 4" in rules("overrides", "[]", "routerID")[0]
    assert "self.file" in rules("password")[0]


def test_what_no_type_says_is_a_rule_that_names_the_field() -> None:
    rules = schema("EgressPolicy")["x-kubernetes-validations"]
    assert {one["fieldPath"] for one in rules} == {".addresses", ".destinationCIDRs", ".filtering"}
    choice = schema("EgressPolicy", "selectors", "[]")["x-kubernetes-validations"]
    assert "podSelector" in choice[0]["rule"]
