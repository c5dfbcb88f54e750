"""``meshgate bgp config``: objects in, the router's side out, and no process is asked."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from bgp.peer import Advertise, BGPPeer
from bgp.routers import command
from bgp.routers.nodes import neighbors
from clustermesh.issued import files_of
from mesh import cli
from mesh.config import load_speaker
from mesh.core.model import Node, Selector
from mesh.lab import places, settings, topology
from mesh.lab.places import Lab

SHAPE = topology.load(places.TOPOLOGY)
EVERY = Selector()
PEER = BGPPeer("router", EVERY, ip_address("10.99.0.1"), 65000, 65101, (Advertise("podCIDRs"),))


def node(name: str, *addresses: str, **labels: str) -> Node:
    return Node("east", name, tuple(map(ip_address, addresses)), labels=tuple(labels.items()))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a lab that is not up."""
    lab = Lab("unit", tmp_path, tmp_path / "cgroup")
    settings.write_manifests(lab, SHAPE)
    pki = settings.pki_directory(lab)
    pki.mkdir()
    for name in ["ca", *(user.cn for user in settings.etcd_users(SHAPE))]:
        files = files_of(pki, name)
        files.cert.touch()
        files.key.touch()
    for cluster, host in SHAPE.nodes:
        settings.node_configs(lab, SHAPE, cluster, host)
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", ["frr", "bird", "gobgp", "iosxr", "junos"])
def test_a_router_gets_the_nodes_of_all_clusters(
    written: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert written
    assert cli.main(["bgp", "config", "--for", kind, "router"]) == 0
    said = capsys.readouterr().out
    for cluster, host in SHAPE.nodes:
        assert str(host.addresses[0]) in said
        assert host.name in said
        assert str(cluster.asn) in said
    assert "65000" in said


CILIUM = """
apiVersion: cilium.io/v2
kind: CiliumBGPClusterConfig
metadata: {name: racks}
spec:
  bgpInstances:
  - {name: a, localASN: 65109, peers: [{name: tor, peerAddress: 10.99.0.7, peerASN: 65007}]}
"""


def test_a_peer_of_ciliums_objects_has_a_configuration_too(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = min(written.glob("*/speaker.yaml"))
    folder = load_speaker(config).manifests
    assert folder
    (folder / "cilium.yaml").write_text(CILIUM)
    name = "racks/a/tor"
    assert cli.main(["bgp", "config", "--for", "frr", "--config", str(config), name]) == 0
    said = capsys.readouterr().out
    assert "router bgp 65007" in said
    assert "remote-as 65109" in said


def test_one_configuration_prints_the_nodes_of_its_cluster(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(written / "west-1/speaker.yaml")
    assert cli.main(["bgp", "config", "--for", "frr", "router", "--config", config]) == 0
    said = capsys.readouterr().out
    assert "10.99.0.21" in said
    assert "10.99.0.11" not in said


def test_what_is_not_there_is_said(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["bgp", "config", "--for", "frr", "nobody"]) == 1
    assert "no BGPPeer of that name in east, west" in capsys.readouterr().err
    monkeypatch.setenv("MESHGATE_RUN", str(written / "nothing"))
    assert cli.main(["bgp", "config", "--for", "frr", "router"]) == 1
    assert "no speaker.yaml under" in capsys.readouterr().err


def test_clusters_that_mean_different_routers_are_refused() -> None:
    other = dataclasses.replace(PEER, asn=65009)
    assert command.router_of([PEER, PEER], None) == (65000, IPv4Address("10.99.0.1"))
    with pytest.raises(ValueError, match=r"different routers: 10\.99\.0\.1 with ASN 65000, "):
        command.router_of([PEER, other], None)
    far = dataclasses.replace(PEER, address=ip_address("fd99::1"))
    assert command.router_of([far], None) == (65000, None)
    assert command.router_of([far], IPv4Address("1.1.1.1"))[1] == IPv4Address("1.1.1.1")


def test_nodes_that_have_no_address_of_the_routers_family_are_no_neighbours() -> None:
    found = neighbors(PEER, [node("a", "10.99.0.11", "fd99::11"), node("b", "fd99::12")])
    assert [(one.name, str(one.address), one.asn) for one in found] == [("a", "10.99.0.11", 65101)]
    assert not found[0].is_client
    inner = neighbors(dataclasses.replace(PEER, local_asn=65000), [node("a", "10.99.0.11")])
    assert inner[0].is_client
