"""Kinds of ours at a real API server: it takes the definitions, and refuses what we refuse."""

from __future__ import annotations

import copy
import json
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

SEED, WRONG = 20261130, 640
_PODS = {
    "podSelector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
    },
    "namespaceSelector": {
        "matchLabels": {"team": "erp"},
        "matchExpressions": [
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "NotIn", "values": ["b", "c"]},
        ],
    },
}
_SELECTOR = _PODS["podSelector"]
_PEER: dict[str, Any] = {
    "nodeSelector": _SELECTOR,
    "asn": 65000,
    "localASN": 65101,
    "families": ["ipv4Unicast", "vpnv4"],
    "advertise": ["podCIDRs", "egressIPs"],
}
#: Valid specs of each kind. Together they have every field; after the kind's name stands what is
#: special about one.
VALID: dict[str, dict[str, Any]] = {
    "EgressPolicy": {
        "selectors": [{**_PODS, "nodeSelector": _SELECTOR}],
        "destinationCIDRs": ["192.0.2.0/24", "2001:db8:2::/64"],
        "destinationSelector": _SELECTOR,
        "excludedCIDRs": ["192.0.2.9/32"],
        "addresses": ["198.51.100.10", "2001:db8:100::10"],
        "destinationNames": ["erp.example.com", "*.example.org"],
        "gateways": {"nodeSelector": _SELECTOR, "max": 4},
        "outbound": "direct",
        "mapping": "endpoint-independent",
        "filtering": "endpoint-independent",
        "quota": {"ports": 256, "newPerSecond": 100},
        "timers": {
            "tcpEstablishedSeconds": 7440,
            "tcpTransitorySeconds": 240,
            "udpSeconds": 300,
            "icmpSeconds": 60,
        },
        "activation": "Acknowledged",
    },
    "EgressPolicy of a pool": {
        "selectors": [{"namespaceSelector": {}}],
        "destinationCIDRs": ["0.0.0.0/0"],
        "pool": "public",
        "gateways": {"nodeSelector": {}},
    },
    "EgressPool": {
        "cidrs": ["198.51.100.0/28", "2001:db8:100::/120"],
        "deny": ["198.51.100.1"],
        "announce": "BGP",
        "blockSize": 256,
        "grants": [{"cluster": "west", "namespaces": ["shop"], "expires": "2027-01-01T00:00:00Z"}],
    },
    "BGPPeer": {
        **_PEER,
        "address": "10.99.0.1",
        "holdSeconds": 90,
        "gracefulRestartSeconds": 120,
        "gracefulRestartVPN": True,
        "advertisements": [
            {
                "type": "prefixes",
                "prefixes": ["192.0.2.0/24"],
                "aggregate": ["10.0.0.0/8", "2001:db8::/32"],
                "communities": {
                    "standard": ["65101:1"],
                    "large": ["65101:1:4294967295"],
                    "extended": ["target:65101:1", "origin:192.0.2.1:7"],
                    "wellKnown": ["no-export"],
                },
                "med": 5,
                "prepend": 2,
            },
            {"type": "services", "addresses": ["LoadBalancer"], "selector": _SELECTOR},
        ],
        "import": [
            {
                "accept": True,
                "prefixes": [{"prefix": "10.0.0.0/8", "ge": 16, "le": 24}],
                "communities": ["65101:7", "no-export"],
                "labels": [{"community": "65101:9", "key": "legacy", "value": "erp"}],
            }
        ],
        "maximumPrefixes": 100,
        "password": {"secret": {"name": "leaf", "key": "secret"}},
        "port": 1179,
        "multihop": 3,
        "localAddress": "10.99.0.11",
        "acceptSIDs": True,
        "bfd": {
            "interval": 300,
            "multiplier": 5,
            "multihop": True,
            "passive": True,
            "simplePassword": "of-both",
        },
        "overrides": [
            {
                "node": "east-2",
                "localASN": 65102,
                "localAddress": "10.99.0.12",
                "routerID": "10.0.0.2",
            }
        ],
    },
    "BGPPeer by a range": {
        **_PEER,
        "prefix": "10.99.0.0/24",
        "asn": 65101,
        "passive": True,
        "ttlSecurity": True,
        "password": {"file": "leaf"},
        "advertisements": [{"type": "podCIDRs", "localPreference": 200}],
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
    "VRF": {
        "pods": [_PODS],
        "destinations": ["10.0.0.0/8", "2001:db8:5::/48"],
        "import": ["65000:100", "4200000000:7"],
        "export": ["192.0.2.1:100"],
        "routeDistinguisher": "65000:100",
        "locatorPool": "default",
        "behaviour": "DT46",
        "advertise": "prefixes",
        "prefixes": ["10.8.0.0/16", "2001:db8:8::/48"],
        "segments": ["fd0b::1"],
        "maxPrefixes": 500,
        "peers": _SELECTOR,
        "addresses": ["10.8.0.0/16", "2001:db8:8::/48"],
        "sid": "fd0a:1:e000::",
    },
    "VRF that is shared": {
        "pods": [{"namespaceSelector": {}}],
        "destinations": ["0.0.0.0/0"],
        "import": ["65000:100"],
        "behaviour": "uDT4AndUDT6",
        "advertise": "podCIDR",
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
    [{"key": "x", "operator": "Near"}], ["podCIDRs", "what"], "65000:4294967296", "65536:65536",
    "4294967295:65535", "256.1.1.1:5", "192.0.2.1:65536", "1.2.3.4:0", "auto", "65000:x", "fd0b::2",
    ["65000:1", "65000:1"], ["10.8.0.0/16", "10.8.1.0/24"], ["2001:db8:8::/48", "2001:db8::/32"],
    ["fd0b::1", "ff02::1"], ["10.0.0.1"], "DT4AndDT6", "podAddresses", "AUTO",
    ["198.51.100.0/28", "198.51.100.8/29"], ["224.0.0.0/8"], ["127.0.0.0/8"], 100, 512, 8000,
    "endpoint-dependent", "*.x", "a..b", "L2", ["x.example", "*"],
)  # fmt: skip


def document(name: str, spec: object) -> dict[str, Any]:
    """The object of a spec in ``VALID``: ``one``, with what is special about it."""
    kind, *words = name.split()
    found = next(one for one in KINDS if one.kind == kind)
    return {
        "apiVersion": found.api_version,
        "kind": kind,
        "metadata": {"name": "-".join(["one", *words])},
        "spec": spec,
    }


def leaves(schema: Any, path: str) -> Iterator[str]:
    """Paths of the values that a schema knows; those of a map are its keys'."""
    if inner := schema.get("properties"):
        for name, one in inner.items():
            yield from leaves(one, f"{path}.{name}")
    elif "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path


def written(value: Any, path: str) -> Iterator[str]:
    """Paths of the values of an object, and of what leads to them."""
    yield path
    for name, one in value.items() if isinstance(value, dict) else ():
        yield from written(one, f"{path}.{name}")
    for one in value if isinstance(value, list) else ():
        yield from written(one, f"{path}[]")


@pytest.mark.parametrize(
    "definition", list(crds.definitions()), ids=lambda one: one["metadata"]["name"]
)
def test_the_valid_objects_have_every_field(definition: Any) -> None:
    kind = definition["spec"]["names"]["kind"]
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    specs = [one for name, one in VALID.items() if name.split()[0] == kind]
    assert set(leaves(spec, "spec")) - {path for one in specs for path in written(one, "spec")} == (
        set()
    )


def apart(spec: dict[str, Any]) -> dict[str, Any]:
    """A copy whose parts are each an object of its own; specs above share selectors."""
    found: dict[str, Any] = json.loads(json.dumps(spec))
    return found


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
        spec = apart(VALID[kind])
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
    kind = next(one for one in KINDS if one.kind == made["kind"])
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


def spelled(path: tuple[Any, ...]) -> str:
    """A path as both name it: ``spec.import[0].prefixes``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "spec" + "".join(steps)


@pytest.mark.parametrize("kind", VALID)
def test_each_field_that_is_wrong_is_named(server: ApiServer, kind: str) -> None:
    """One field at a time has a value of another type."""
    silent = []
    for path in dict.fromkeys(places(VALID[kind])):
        spec = apart(VALID[kind])
        *way, last = path
        inner = spec
        for step in way:
            inner = inner[step]
        inner[last] = 7 if isinstance(inner[last], str | list | dict) else {"x": "y"}
        made = document(kind, spec)
        status, answer = create(server, made)
        name = spelled(path)
        ours = refused_by_parse(made)
        if status == 201 or name not in answer["message"] or not ours.startswith(spelled(path)):
            silent.append((name, ours, status, answer.get("message", "")))
    assert not silent, "\n".join(map(str, silent))
