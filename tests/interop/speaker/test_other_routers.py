"""Routes with every attribute both ways: BIRD 2 (iBGP) and GoBGP 3.10 (eBGP, VPN)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgp.route import Family
from tests.interop.speaker.frr_router import network, until
from tests.interop.speaker.other_routers import BIRD, GOBGP, Bird, GoBGP, bird, gobgp
from tests.interop.speaker.ribs_node import RibsNode, attributes

pytestmark = pytest.mark.slow

NODE = "10.99.0.11"
STATIC = """
protocol static four { ipv4; route 20.1.1.0/24 blackhole {
  bgp_community.add((65101,100)); bgp_large_community.add((65101,1,2));
  bgp_ext_community.add((rt,65101,7)); bgp_med = 50; bgp_local_pref = 150;
}; }
protocol static six { ipv6; route 2001:db8:21::/48 blackhole; }
"""
SAID = {
    "communities": ["65101:100", "no-export"],
    "large": ["65101:1:2"],
    "extended": ["target:65101:7"],
    "med": 50,
}
VPN = {
    "rd": "10.99.0.11:7",
    "extended": ["target:65101:100"],
    "sid": ["fcbb:bb00:1:e000::", 19, [32, 16, 16, 0, 0, 0]],
}


@pytest.fixture
def wires() -> Iterator[None]:
    with network():
        yield


@pytest.fixture
def node(wires: None, tmp_path: Path) -> Iterator[RibsNode]:
    del wires
    node = RibsNode(tmp_path)
    yield node
    if node.process:
        node.kill()
    if pid := node.engine.pid():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def router(wires: None, tmp_path: Path) -> Iterator[Bird]:
    del wires
    with bird(tmp_path, STATIC) as it:
        yield it


@pytest.fixture
def go(wires: None, tmp_path: Path) -> Iterator[GoBGP]:
    del wires
    with gobgp(tmp_path) as it:
        yield it


def test_bird_within_our_as(node: RibsNode, router: Bird) -> None:
    peer = {"address": BIRD, "local": NODE, "asn": 65101}
    more = {**SAID, "local_preference": 200}
    node.desire([BIRD, "10.1.0.0/24", NODE, more], [BIRD, "fd01::/64", "fd99::11"], peers=[peer])
    node.start()
    four, six = f"{BIRD} 20.1.1.0/24", f"{BIRD} 2001:db8:21::/48"
    until(node.has(four, six), "BIRD's routes are there")
    assert attributes(node.received()[four]) == {
        "next_hop": BIRD,
        "communities": ["65101:100"],
        "large": ["65101:1:2"],
        "extended": ["target:65101:7"],
        "med": 50,
        "local_preference": 150,
    }
    assert attributes(node.received()[six])["local_preference"] == 100
    until(node.arrived, "everything is announced")
    text = until(lambda: router.ask("show", "route", "all", "10.1.0.0/24"), "BIRD has ours")
    for word in (
        "BGP.community: (65101,100)", "(65535,65281)", "(65101, 1, 2)", "(rt, 65101, 7)",
        "BGP.med: 50", "BGP.local_pref: 200",
    ):  # fmt: skip
        assert word in text
    assert node.sent()[f"{BIRD} 10.1.0.0/24"]["local_preference"] == 200
    router.routes(STATIC.replace("20.1.1.0/24", "20.1.2.0/24"))
    until(node.has(f"{BIRD} 20.1.2.0/24", six), "one goes, another comes")


def test_gobgp_with_vpn_routes(node: RibsNode, go: GoBGP) -> None:
    peer = {"address": GOBGP, "local": NODE, "asn": 65003, "families": list(Family)}
    vpn = [GOBGP, "10.1.2.0/24", "fd99::11", VPN]
    node.desire([GOBGP, "10.1.0.0/24", NODE, SAID], vpn, peers=[peer])
    more = "med 50 community 65003:1 large-community 65003:1:2 rt 65003:7"
    go.add(f"20.2.1.0/24 nexthop {GOBGP} {more}")
    go.add(f"-a vpnv4 20.2.2.0/24 label 10 rd 65003:9 rt 65003:7 nexthop {GOBGP}")
    node.start()
    four, other = f"{GOBGP} 20.2.1.0/24", f"{GOBGP} 65003:9 20.2.2.0/24"
    until(node.has(four, other), "GoBGP's routes are there")
    assert attributes(node.received()[four]) == {
        "next_hop": GOBGP,
        "as_path": [65003],
        "communities": ["65003:1"],
        "large": ["65003:1:2"],
        "extended": ["target:65003:7"],
        "med": 50,
    }
    assert (node.received()[other]["label"], node.received()[other]["sid"]) == (10, None)
    until(node.arrived, "everything is announced")
    found = until(lambda: go.rib("ipv4").get("10.1.0.0/24"), "GoBGP has ours")
    text = str(found[0]["attrs"])
    for number in (65101 << 16 | 100, 0xFFFFFF01):
        assert str(number) in text
    vpn_rib = lambda: go.ask("global", "rib", "-a", "vpnv4")  # noqa: E731
    until(lambda: "fcbb:bb00:1:e000::" in vpn_rib(), "and the VPN route with its SID")
    sent = node.sent()[f"{GOBGP} 10.99.0.11:7 10.1.2.0/24"]
    assert (sent["sid"], sent["behaviour"], sent["label"]) == ("fcbb:bb00:1:e000::", 19, 3)
    go.ask("global", "rib", "del", "20.2.1.0/24")
    until(node.has(other), "one is withdrawn")
