"""Kinds of ours at a real API server: it takes the definitions, and refuses what we refuse."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mesh.core.strict import Wrong
from mesh.objects import crds, schema
from mesh.objects.kinds import KINDS
from mesh.objects.schema import Place
from tests.e2e.api_server import ApiServer

SEED, WRONG = 20261130, 300
#: One valid object of each kind, with every field.
VALID: dict[str, dict[str, Any]] = {
    "EgressPolicy": {
        "selectors": [
            {
                "podSelector": {
                    "matchLabels": {"app": "web"},
                    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
                },
                "namespaceSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
            }
        ],
        "destinationCIDRs": ["192.0.2.0/24", "2001:db8:2::/64"],
        "excludedCIDRs": ["192.0.2.9/32"],
        "addresses": ["198.51.100.10", "2001:db8:100::10"],
        "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}},
    },
    "BGPPeer": {
        "nodeSelector": {},
        "address": "10.99.0.1",
        "asn": 65000,
        "localASN": 65101,
        "advertise": ["podCIDRs", "egressIPs"],
        "holdSeconds": 90,
        "gracefulRestartSeconds": 120,
    },
    "ClusterPeer": {
        "cluster": "west",
        "id": 2,
        "podCIDRs": ["10.2.0.0/16", "fd02::/48"],
        "nodeCIDRs": ["10.99.0.0/24"],
        "serviceCIDRs": ["10.97.2.0/24"],
        "namespaces": ["shop", "*"],
        "hosts": True,
        "limits": {"nodes": 100, "identities": 1, "addresses": 0, "services": 5},
    },
}
#: Values that some field somewhere refuses.
ODD = (
    "", "x", "300.1.1.1", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.1", "fe80::1%eth0", "1.2.3.4",
    "0.0.0.0", "::", "127.0.0.1", "224.0.0.1", "ff02::1",  # noqa: S104 - refused
    "2001:db8::/129", "10.0.0.0/08", " 10.0.0.1",
    "10.0.0.0/255.0.0.0", -1, 0, 1, 2, 65536, 4294967296, 1.5, True, [], {}, ["x"], {"x": "y"},
    {"matchLabels": {"a": 1}}, [{}], [{"podSelector": {}}], ["192.0.2.1", "192.0.2.2"],
    [{"key": "x", "operator": "Exists", "values": ["a"]}], [{"key": "x", "operator": "In"}],
    [{"key": "x", "operator": "Near"}], ["podCIDRs", "what"],
)  # fmt: skip


def document(kind: str, spec: object) -> dict[str, Any]:
    (found,) = (one for one in KINDS if one.kind == kind)
    return {
        "apiVersion": found.api_version,
        "kind": kind,
        "metadata": {"name": "one"},
        "spec": spec,
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values below this one."""
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        yield (*path, step)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, step))


def mutations(kind: str, number: int) -> Iterator[dict[str, Any]]:
    """Documents that differ from the valid one in one place."""
    choice = random.Random(f"{SEED}{kind}")
    for _ in range(number):
        spec = copy.deepcopy(VALID[kind])
        *way, last = choice.choice(list(places(spec)))
        inner = spec
        for step in way:
            inner = inner[step]
        match choice.randrange(8):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, dict):
                inner["unknown"] = 1
            case _:
                inner[last] = copy.deepcopy(choice.choice(ODD))
        yield document(kind, spec)


def refused_by_parse(made: dict[str, Any]) -> str:
    """The path and text of the refusal; empty: accepted."""
    try:
        head = schema.head(made)
        KINDS.parse(head, Place("east", "one.yaml", KINDS.key_of(head)), made)
    except Wrong as wrong:
        return f"{wrong.path}: {wrong.text}"
    return ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path_factory.mktemp("api"))
    try:
        made.start()
        for one in crds.definitions():
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            status, answer = made.ask("POST", f"{path}?fieldValidation=Strict", one)
            assert status == 201, answer["message"]
        for one in crds.definitions():
            _await_served(made, one)
        yield made
    finally:
        made.stop()


def _await_served(server: ApiServer, one: Any) -> None:
    name, end = one["metadata"]["name"], time.monotonic() + 30
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    while time.monotonic() < end:
        _, answer = server.ask("GET", path)
        held = {c["type"]: c["status"] for c in answer["status"].get("conditions", ())}
        if held.get("Established") == "True":
            assert held.get("NonStructuralSchema") is None
            return
        time.sleep(0.1)
    raise AssertionError(f"not served: {name}")


def create(server: ApiServer, made: dict[str, Any]) -> tuple[int, Any]:
    """What the server would say, were the document created."""
    (kind,) = (one for one in KINDS if one.kind == made["kind"])
    assert kind.definition
    path = f"/apis/{kind.api_version}/{kind.definition.plural}"
    return server.ask("POST", f"{path}?dryRun=All&fieldValidation=Strict", made)


@pytest.mark.parametrize("kind", VALID)
def test_a_valid_object_is_taken(server: ApiServer, kind: str) -> None:
    made = document(kind, VALID[kind])
    assert refused_by_parse(made) == ""
    status, answer = create(server, made)
    assert status == 201, answer["message"]


@pytest.mark.parametrize("kind", VALID)
def test_the_server_refuses_what_parse_refuses(server: ApiServer, kind: str) -> None:
    differ, refused = [], 0
    for made in mutations(kind, WRONG // len(VALID)):
        ours = refused_by_parse(made)
        status, answer = create(server, made)
        refused += bool(ours)
        if bool(ours) != (status != 201):
            differ.append((made["spec"], ours, status, answer.get("message", "")))
        elif ours:
            assert "spec" in answer["message"] or "unknown field" in answer["message"], answer
    assert not differ, "\n".join(map(str, differ))
    assert refused > WRONG // len(VALID) // 2
