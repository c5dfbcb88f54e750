"""A covered pod in a VRF: the finding names pod, policy, VRF and the networks that both want."""

from __future__ import annotations

from ipaddress import ip_network

from gateway.in_vrf import InVRFs, contested, shared
from gateway.policy import POLICIES
from mesh.core.model import PodKey
from mesh.core.table import Table
from mesh.objects.kinds import KINDS
from mesh.objects.tables import Objects
from tests.fixtures.rooms import policy

ONE, TWO, PLAIN = (PodKey("east", "shop", name) for name in ("app-1", "app-2", "web-1"))


def agent(*destinations: str) -> InVRFs:
    """Policy p1 covers 192.1.0.0/24 and 2001:db8:2:1:0::/80 for three pods, two in VRF blue."""
    objects = Objects(KINDS.nouns)
    objects[POLICIES].upsert({"p1": policy("p1", ["app"], 1, "gateway")})
    covered: Table[PodKey, tuple[str, ...]] = Table("covered")
    covered.replace({ONE: ("p1",), TWO: ("p1",), PLAIN: ("p1",)})
    vrfs: Table[PodKey, str] = Table("VRF of pod")
    vrfs.replace({ONE: "blue", TWO: "blue"})
    networks = tuple(map(ip_network, destinations))
    return InVRFs(objects, covered, vrfs, lambda vrf: networks if vrf == "blue" else ())


def test_what_both_want_is_named() -> None:
    (found,) = agent("192.0.0.0/8", "10.50.0.0/24").findings()
    assert found.code == "M248"
    for word in ("shop/app-1 (and 1 more)", "192.1.0.0/24", "VRF blue", "policy p1"):
        assert word in found.text
    assert set(found.about) == {"egress/p1", "vrf/blue"}


def test_networks_apart_are_no_finding() -> None:
    assert not list(agent("10.50.0.0/24", "fd50::/64").findings())
    assert not list(agent().findings())


def test_only_pods_of_both_count() -> None:
    assert contested({ONE: ("p1",), PLAIN: ("p1",)}, {ONE: "blue", TWO: "blue"}) == {
        ("blue", "p1"): [ONE]
    }


def test_the_smaller_network_is_the_shared_one() -> None:
    big, small, six = map(ip_network, ("10.0.0.0/8", "10.50.0.0/24", "::/0"))
    assert list(shared([big, six], [small])) == [small]
    assert list(shared([small], [big, six])) == [small]
