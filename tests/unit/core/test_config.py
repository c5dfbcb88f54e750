"""Configuration: what is accepted, and how a mistake is named."""

import errno
import os
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.config import ConfigError, load_agent, load_controller, load_speaker
from mesh.core.strict import Misfit, Unreadable, Wrong
from mesh.datapath.settings import Size
from mesh.k8s.settings import Kubernetes
from tests.fixtures.refusals import Refused, agrees

LOADERS = {"agent": load_agent, "controller": load_controller, "speaker": load_speaker}


@pytest.fixture
def valid(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """One valid configuration per role."""
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("PEM")
    common = {
        "cluster": {"name": "east", "id": 1},
        "manifests": "/run/m/east",
        "socket": "/run/m/x.sock",
        "etcd": {
            "endpoints": ["https://10.99.0.31:2379"],
            **{name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")},
        },
    }
    return {
        "agent": common
        | {
            "node": "east-1",
            "bpffs": "/sys/fs/bpf/mg/east-1",
            "cgroup": "/sys/fs/cgroup/mg/east-1",
            "uplink": "uplink",
            "podNetns": "/run/netns/mg-{cluster}_{namespace}_{name}",
            "egress": {"blockSize": 256, "blocksPerNode": 4},
            "stateDir": "/var/lib/m",
        },
        "controller": common
        | {
            "instance": "east-1",
            "pools": {
                "podCIDRs": [
                    {"cidr": "10.1.0.0/16", "nodePrefix": 24},
                    {"cidr": "fd01::/48", "nodePrefix": 64},
                ],
                "locators": [{"cidr": "fcbb:bb01::/32", "nodePrefix": 48}],
            },
            "egress": {"blockSize": 256, "blocksPerNode": 4},
            "leaseSeconds": 10,
            "stateDir": "/var/lib/m",
        },
        "speaker": common
        | {
            "node": "east-1",
            "runDir": "/run/m/east-1",
            "routerID": "10.99.0.11",
            "exabgpUser": "1900000001",
        },
    }


def error_of(role: str, config: object, folder: Path) -> ConfigError:
    """The error that names the file."""
    file = folder / f"{role}.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    with pytest.raises(ConfigError) as caught:
        LOADERS[role](file)
    assert str(caught.value).startswith(f"{file}: ")
    return caught.value


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The configuration with one field set, or removed by ``...``."""
    head, _, rest = path.partition(".")
    if rest:
        return config | {head: changed(config[head], rest, value)}
    if value is ...:
        return {name: field for name, field in config.items() if name != head}
    return config | {head: value}


def test_valid_configurations_are_typed(valid: dict[str, Any], tmp_path: Path) -> None:
    for role, config in valid.items():
        (tmp_path / f"{role}.yaml").write_text(yaml.safe_dump(config))
    agent = load_agent(tmp_path / "agent.yaml")
    assert agent.cluster.id == 1
    assert agent.etcd.ca == tmp_path / "ca.pem"
    assert agent.bpffs == Path("/sys/fs/bpf/mg/east-1")
    controller = load_controller(tmp_path / "controller.yaml")
    assert [pool.cidr for pool in controller.pools.pod_cidrs] == [
        ip_network("10.1.0.0/16"),
        ip_network("fd01::/48"),
    ]
    assert controller.lease_seconds == 10
    assert load_speaker(tmp_path / "speaker.yaml").router_id == IPv4Address("10.99.0.11")


def test_what_may_be_absent_has_its_default(valid: dict[str, Any], tmp_path: Path) -> None:
    config = changed(changed(valid["controller"], "egress", ...), "leaseSeconds", ...)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    controller = load_controller(tmp_path / "c.yaml")
    assert (controller.egress.block_size, controller.egress.blocks_per_node) == (256, 32)
    assert controller.lease_seconds == 900


def test_objects_may_come_from_an_api_server(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(changed(valid["agent"], "manifests", ...) | {"kubernetes": {}}))
    agent = load_agent(path)
    assert agent.manifests is None
    assert agent.kubernetes == Kubernetes()


def test_one_file_serves_all_nodes(
    valid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHGATE_NODE", "east-7")
    monkeypatch.setenv("MESHGATE_INSTANCE", "controller-x")
    fields = {"agent": "node", "speaker": "node", "controller": "instance"}
    for role, field in fields.items():
        (tmp_path / f"{role}.yaml").write_text(yaml.safe_dump(changed(valid[role], field, ...)))
    assert load_agent(tmp_path / "agent.yaml").node == "east-7"
    assert load_speaker(tmp_path / "speaker.yaml").node == "east-7"
    assert load_controller(tmp_path / "controller.yaml").instance == "controller-x"
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(valid["agent"]))
    assert load_agent(tmp_path / "agent.yaml").node == "east-1", "the file counts"
    monkeypatch.setenv("MESHGATE_NODE", "East 7")
    assert "node" in str(error_of("agent", changed(valid["agent"], "node", ...), tmp_path))


@pytest.mark.parametrize(
    ("changes", "port"),
    [
        ({}, 8472),
        ({"mode": "beside"}, 8473),
        ({"mode": "beside", "overlayPort": 9000}, 9000),
        ({"overlayPort": 9000}, 9000),
    ],
)
def test_the_overlay_has_another_port_beside_another_cni(
    valid: dict[str, Any], tmp_path: Path, changes: dict[str, object], port: int
) -> None:
    """A second VXLAN device on another one's port is never made."""
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(valid["agent"] | changes))
    assert load_agent(path).port == port
    path.write_text(yaml.safe_dump(valid["controller"] | changes))
    assert load_controller(path).port == port


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_beside_another_cni_pods_are_not_masqueraded(
    valid: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    path, config = tmp_path / "agent.yaml", valid["agent"] | {"masquerade": {"mode": mode}}
    path.write_text(yaml.safe_dump(config))
    assert load_agent(path).masquerading == load_agent(path).masquerade
    path.write_text(yaml.safe_dump(config | {"mode": "beside"}))
    assert load_agent(path).masquerading is None
    path.write_text(yaml.safe_dump(config | {"mode": "beside", "masquerade": {"mode": "on"}}))
    with pytest.raises(ConfigError, match=r"masquerade\.mode: on needs mode: whole"):
        load_agent(path)


def test_beside_another_cni_pods_need_no_path(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    without = {key: value for key, value in valid["agent"].items() if key != "podNetns"}
    path.write_text(yaml.safe_dump(without | {"mode": "beside"}))
    assert load_agent(path).pod_netns == ""
    path.write_text(yaml.safe_dump(without))
    with pytest.raises(ConfigError, match="podNetns"):
        load_agent(path)


def test_a_node_may_have_maps_of_another_size(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(valid["agent"]))
    assert load_agent(path).limits == ()
    sizes = [{"map": "mg_egress", "entries": 131072}]
    path.write_text(yaml.safe_dump(valid["agent"] | {"limits": sizes}))
    assert load_agent(path).limits == (Size(map="mg_egress", entries=131072),)


#: Role, field, its value, and our sentence about it.
WRONG: list[tuple[str, str, object, str | Refused]] = [
    ("agent", "etcd.endpoints", [5], Refused("etcd.endpoints[0]", 5)),
    ("agent", "etcd.endpoints", [], Refused("etcd.endpoints", [])),
    ("agent", "etcd.endpoints", ["h"], "etcd.endpoints[0]: expected https://host:port or"),
    ("agent", "etcd.endpoints", ["https://h:99999"], "etcd.endpoints[0]: expected https://"),
    ("agent", "etcd.ca", "/nowhere/ca.pem", "etcd.ca: no such file: /nowhere/ca.pem"),
    ("agent", "etcd.key", ..., "etcd.key: required with https://"),
    ("agent", "etcd.user", "root", "etcd.user: unknown field"),
    ("agent", "cluster.id", 0, Refused("cluster.id", 0)),
    ("agent", "cluster.id", 256, Refused("cluster.id", 256)),
    ("agent", "cluster.id", "1", Refused("cluster.id", "1")),
    ("agent", "cluster.id", True, Refused("cluster.id", value=True)),
    ("agent", "cluster.name", "East", Refused("cluster.name", "East")),
    ("agent", "cluster.name", "default", "cluster.name: 'default' is reserved"),
    ("agent", "cluster.name", "e" * 33, Refused("cluster.name", "e" * 33)),
    ("agent", "cluster.name", "east\n", Refused("cluster.name", "east\n")),
    ("agent", "node", ..., "node: required, here or in the environment variable MESHGATE_NODE"),
    ("controller", "instance", ..., "instance: required, here or in the environment variable"),
    ("agent", "manifests", ..., "manifests: required, or else kubernetes"),
    ("controller", "kubernetes", {"host": "http://h"}, "kubernetes.host: expected https://host"),
    ("speaker", "kubernetes", {"host": "https://h/x"}, "kubernetes.host: expected https://host"),
    ("agent", "kubernetes", {"kubeconfig": "/no"}, "kubernetes.kubeconfig: no such file: /no"),
    ("agent", "kubernetes", {"context": "x"}, "kubernetes.context: unknown field"),
    ("agent", "nodeName", "x", "nodeName: unknown field"),
    ("agent", "uplink", "a-name-too-long-1", Refused("uplink", "a-name-too-long-1")),
    ("agent", "stateDir", "", "stateDir: expected a path, got ''"),
    ("agent", "podNetns", ..., "podNetns: required without cni"),
    ("agent", "cni", {"socket": "cni.sock"}, "cni.socket: expected an absolute path, got cni.sock"),
    ("agent", "cni", {"confDir": "net.d"}, "cni.confDir: expected an absolute path, got net.d"),
    ("agent", "cni", {"socket": f"/{'s' * 103}"}, "cni.socket: a path of a socket has room for"),
    ("agent", "cni", {"path": "/x"}, "cni.path: unknown field"),
    ("agent", "podNetns", "/run/netns/{pod}", "podNetns: expected only {cluster}, {namespace}"),
    ("agent", "podNetns", "/run/netns/{name}", "podNetns: expected {namespace} and {name}"),
    ("agent", "podNetns", "/run/{", "podNetns: expected only"),
    ("agent", "podNetns", "/run/{namespace}_{name[0]}", "podNetns: expected only"),
    ("agent", "podNetns", "/run/{namespace}_{name:.3}", "podNetns: expected only"),
    ("agent", "podNetns", "/run/{namespace}_{name!r}", "podNetns: expected only"),
    ("agent", "podNetns", "/run/{namespace}{name}", "podNetns: expected an underscore"),
    ("agent", "podNetns", "/run/{namespace}-{name}", "podNetns: expected an underscore"),
    ("agent", "podNetns", "/run/{name}-{cluster}.{namespace}", "podNetns: expected an underscore"),
    ("agent", "podNetns", "/run/_{namespace}-{name}", "podNetns: expected an underscore"),
    ("agent", "egress.blockSize", 100, "egress.blockSize: expected one of 64, 128, 256, 512, 1024"),
    ("agent", "egress.blocksPerNode", 33, Refused("egress.blocksPerNode", 33)),
    ("agent", "limits", [{"map": "mg_egress", "entries": 0}], Refused("limits[0].entries", 0)),
    ("agent", "limits", [{"map": "egress", "entries": 64}], Refused("limits[0].map", "egress")),
    ("agent", "limits", [{"map": "mg_egress"}], "limits[0].entries: required"),
    (
        "agent",
        "limits",
        [{"map": "mg_node", "entries": 64}, {"map": "mg_node", "entries": 99}],
        "limits[1].map: expected each map once, got 'mg_node' again",
    ),
    ("controller", "leaseSeconds", 1.5, Refused("leaseSeconds", 1.5)),
    (
        "controller",
        "pools.podCIDRs",
        [{"cidr": "10.1.0.0/8", "nodePrefix": 24}],
        "pools.podCIDRs[0].cidr: expected a CIDR, got '10.1.0.0/8'; did you mean 10.0.0.0/8?",
    ),
    (
        "controller",
        "pools.podCIDRs",
        [{"cidr": "10.1.0.0/16", "nodePrefix": 33}],
        "pools.podCIDRs[0].nodePrefix: expected 16..32 in 10.1.0.0/16, got 33",
    ),
    (
        "controller",
        "pools.podCIDRs",
        [{"cidr": "10.1.0.0", "nodePrefix": 24}],
        "pools.podCIDRs[0].cidr: expected a CIDR, got '10.1.0.0'",
    ),
    (
        "controller",
        "pools.locators",
        [{"cidr": "10.1.0.0/16", "nodePrefix": 24}],
        "pools.locators[0].cidr: expected an IPv6 CIDR, got 10.1.0.0/16",
    ),
    (
        "controller",
        "pools.locators",
        [{"cidr": "fd01::/32", "nodePrefix": 48}],
        "pools.locators[0].cidr: fd01::/32 overlaps fd01::/48 of pools.podCIDRs[1]",
    ),
    ("speaker", "routerID", "::1", "routerID: expected an IPv4 address, got '::1'"),
    ("speaker", "routerID", 5, "routerID: expected an IPv4 address, got int"),
    ("speaker", "exabgpUser", "0", "exabgpUser: root must not speak with strangers"),
    ("speaker", "exabgpUser", "root", "exabgpUser: root must not speak with strangers"),
    ("speaker", "exabgpUser", "no-such", "exabgpUser: there is no user 'no-such' on this host"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]} {case[1]}")
def test_a_mistake_names_the_file_and_the_path(
    case: tuple[str, str, object, str | Refused], valid: dict[str, Any], tmp_path: Path
) -> None:
    role, path, value, expected = case
    error = error_of(role, changed(valid[role], path, value), tmp_path).__cause__
    assert agrees(error, expected), repr(error)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected one YAML document, got 0"),
        ("a: 1\n---\nb: 2\n", "expected one YAML document, got 2"),
        ("node: a\nnode: b\n", "line 2: duplicate key 'node'"),
        ("node: !!python/object:os.system x\n", "line 1: tag tag:yaml.org,2002:py"),
        ("[" * 70, "line 1: nested more than 64 levels deep"),
    ],
)
def test_unreadable_yaml_names_the_line(text: str, error: str, tmp_path: Path) -> None:
    assert str(error_of("agent", text, tmp_path).__cause__).startswith(error)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("cluster: {name: east\n", 2, 1), ("cluster:\n\tname: east\n", 2, 1)],
)
def test_what_is_no_yaml_is_named_by_its_place(
    text: str, line: int, column: int, tmp_path: Path
) -> None:
    error = error_of("agent", text, tmp_path).__cause__
    assert isinstance(error, Unreadable)
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"line {line}: not YAML: ")


def test_brackets_that_would_overflow_the_stack_are_refused_in_their_line(tmp_path: Path) -> None:
    """Our bound may meet them first, or libyaml's: it looks a thousand characters ahead."""
    error = error_of("agent", "[" * 100_000, tmp_path).__cause__
    assert isinstance(error, Wrong)
    assert error.path == "line 1"


def test_a_configuration_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    error = error_of("agent", "- a\n", tmp_path).__cause__
    assert isinstance(error, Misfit)
    assert (error.path, error.value) == ("", ["a"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"nothing.yaml: {os.strerror(errno.ENOENT)}"):
        load_agent(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"node: \xff\n")
    with pytest.raises(ConfigError, match=r"b.yaml: not UTF-8"):
        load_agent(tmp_path / "b.yaml")
