"""What a runtime may ask for, and with which code a wrong call is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.cni import results, versions
from mesh.cni.frames import Frame
from mesh.cni.requests import Code, RefusedError, RuntimeCall, call_of, version_of
from mesh.core.model import Connection
from mesh.core.strict import parse_address

CONFIG: dict[str, Any] = {"cniVersion": "1.1.0", "name": "meshgate", "type": "meshgate-cni"}
WHERE = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}


def frame(command: str, config: object = None, **variables: str) -> Frame:
    text = config if isinstance(config, bytes) else json.dumps(config or CONFIG).encode()
    return Frame({"CNI_COMMAND": command, **WHERE, **variables}, text)


def refusal(*arguments: Any, **variables: str) -> tuple[Code, str]:
    with pytest.raises(RefusedError) as caught:
        call_of(frame(*arguments, **variables))
    return caught.value.code, caught.value.message


def test_a_call_has_what_the_runtime_says() -> None:
    config = {**CONFIG, "prevResult": {"ips": []}, "capabilities": {"x": True}, "runtimeConfig": {}}
    got = call_of(frame("ADD", config, CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=web;odd;X=a=b"))
    arguments = {"IgnoreUnknown": "1", "K8S_POD_NAME": "web", "X": "a=b"}
    assert got == RuntimeCall(
        "ADD", "1.1.0", "meshgate", "c1", "/run/netns/x", "eth0", arguments, {"ips": []}
    )


def test_valid_attachments_are_told_from_none() -> None:
    """Cnitool sends no key for an empty set."""
    key = "cni.dev/valid-attachments"
    assert call_of(frame("GC")).valid is None
    assert call_of(frame("GC", {**CONFIG, key: None})).valid is None
    assert call_of(frame("GC", {**CONFIG, key: []})).valid == frozenset()
    listed = [{"containerID": "c1", "ifname": "eth0", "more": 1}]
    assert call_of(frame("GC", {**CONFIG, key: listed})).valid == {("c1", "eth0")}


def test_empty_variables_are_absent_ones() -> None:
    nothing = dict.fromkeys(WHERE, "")
    assert call_of(frame("STATUS", **nothing)).container == ""
    assert call_of(frame("DEL", CNI_NETNS="")).netns == ""
    assert refusal("ADD", CNI_NETNS="")[0] == Code.ENVIRONMENT


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (("FOO",), {}, Code.ENVIRONMENT, "CNI_COMMAND"),
        (("ADD",), {"CNI_CONTAINERID": ""}, Code.ENVIRONMENT, "CNI_CONTAINERID: required"),
        (("ADD",), {"CNI_CONTAINERID": "-x"}, Code.ENVIRONMENT, "CNI_CONTAINERID: expected"),
        (("ADD",), {"CNI_IFNAME": "a/b"}, Code.ENVIRONMENT, "CNI_IFNAME"),
        (("ADD",), {"CNI_IFNAME": ".."}, Code.ENVIRONMENT, "CNI_IFNAME"),
        (("DEL",), {"CNI_IFNAME": "sixteen-letters-"}, Code.ENVIRONMENT, "CNI_IFNAME"),
        (("ADD", b"{"), {}, Code.DECODE, "configuration"),
        (("ADD", b"[]"), {}, Code.CONFIG, "configuration"),
        (("ADD", {"cniVersion": "1.1.0"}), {}, Code.CONFIG, "name: required"),
        (("ADD", {**CONFIG, "prevResult": 1}), {}, Code.CONFIG, "prevResult"),
        (("ADD", {**CONFIG, "cniVersion": "0.2.0"}), {}, Code.VERSION, "'0.2.0'"),
        (("ADD", {"name": "meshgate"}), {}, Code.VERSION, "cniVersion"),
        (("CHECK", {**CONFIG, "cniVersion": "0.3.1"}), {}, Code.VERSION, "has no CHECK"),
        (("GC", {**CONFIG, "cniVersion": "1.0.0"}), {}, Code.VERSION, "has no GC"),
        (("STATUS", {**CONFIG, "cniVersion": "1.0.0"}), {}, Code.VERSION, "has no STATUS"),
    ],
)  # fmt: skip
def test_a_wrong_call_has_its_code(
    arguments: tuple[Any, ...], variables: dict[str, str], code: Code, said: str
) -> None:
    got, text = refusal(*arguments, **variables)
    assert got == code
    assert said in text


def test_an_error_is_told_in_the_version_of_stdin() -> None:
    assert version_of(frame("FOO", {"cniVersion": "0.4.0"})) == "0.4.0"
    assert version_of(frame("FOO", b"{")) == "1.1.0"
    answer = results.refused("0.4.0", RefusedError(Code.AGAIN, "later", "more"))
    said = {"cniVersion": "0.4.0", "code": 11, "msg": "later", "details": "more"}
    assert (answer.status, json.loads(answer.text)) == (1, said)


def test_versions_are_compared_as_numbers() -> None:
    assert versions.at_least("1.10.0", "1.9.0")
    assert not versions.at_least("0.3.1", "0.4.0")
    with pytest.raises(ValueError, match="expected a version"):
        versions.number("1.0")


@pytest.mark.parametrize(
    ("answers", "highest"),
    [
        ([versions.SUPPORTED], "1.1.0"),
        ([versions.SUPPORTED, ("0.4.0", "1.0.0")], "1.0.0"),
        ([versions.SUPPORTED, ("0.1.0", "0.2.0")], ""),
        ([versions.SUPPORTED, ("1.0.0", "1.1.0", "1.2.0")], "1.1.0"),
    ],
)
def test_a_chain_has_the_highest_version_that_all_of_it_speaks(
    answers: list[tuple[str, ...]], highest: str
) -> None:
    assert versions.highest(answers) == highest


# --- Results --------------------------------------------------------------------------------------

CONNECTION = Connection(
    "mgp1", "0e:00:00:00:00:01", "0a:00:00:00:00:01", 1450,
    (parse_address("10.1.0.2"), parse_address("fd01::2")),
)  # fmt: skip


def result(version: str) -> Any:
    asked = call_of(frame("ADD", {**CONFIG, "cniVersion": version}))
    return json.loads(results.added(asked, CONNECTION).text)


def test_a_result_of_1_1_names_both_ends_and_their_mtu() -> None:
    assert result("1.1.0") == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "mgp1", "mac": "0e:00:00:00:00:01", "mtu": 1450},
            {"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/x", "mtu": 1450},
        ],
        "ips": [
            {"address": "10.1.0.2/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd01::2/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"},
        ],
        "dns": {},
    }


def test_results_before_1_0_name_the_family_and_none_before_1_1_the_mtu() -> None:
    assert [one["version"] for one in result("0.3.1")["ips"]] == ["4", "6"]
    assert [one["version"] for one in result("0.4.0")["ips"]] == ["4", "6"]
    assert "version" not in result("1.0.0")["ips"][0]
    assert "mtu" not in result("1.0.0")["interfaces"][0]


def test_addresses_of_a_result_are_those_of_the_interface() -> None:
    found = results.addresses_in(result("1.1.0"), "eth0", "/run/netns/x")
    assert found == ["10.1.0.2/32", "fd01::2/128"]
    assert results.addresses_in(result("1.1.0"), "eth1", "/run/netns/x") == []
    assert results.addresses_in({"ips": [{"address": "10.0.0.2/24"}]}, "eth0", "") == [
        "10.0.0.2/24"
    ]
