"""The router's side of sessions: what each kind of router is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from bgp.peer import BFD
from bgp.routers import frr, gobgp
from bgp.routers.frr_vpn import RouterVRF, edge_config, locator_config
from bgp.routers.kinds import ROUTERS
from bgp.routers.side import UNICAST, VPN, Neighbor, in_order

ROUTER_ID = IPv4Address("10.99.0.1")
PLAIN = Neighbor(ip_address("10.99.0.11"), 65101, name="east-1")
FULL = Neighbor(
    ip_address("fd99::12"), 65101, "s3cret", "east-2", (*UNICAST, *VPN),
    hold_s=12, gtsm=True, bfd=BFD(300, 3), is_told=False,
)  # fmt: skip
FAR = Neighbor(ip_address("10.0.0.1"), 65101, multihop=4, dials=False, port=1790)
INNER = Neighbor(ip_address("10.99.0.13"), 65000, is_client=True)


def text(router: str, *neighbors: Neighbor) -> str:
    return ROUTERS[router](65000, ROUTER_ID, neighbors)


#: What stands in the text of a neighbour with everything, and not in that of a plain one.
SAID = {
    "frr": (
        "neighbor fd99::12 password s3cret", "neighbor fd99::12 ttl-security hops 1",
        "neighbor fd99::12 timers 4 12", "neighbor fd99::12 bfd profile meshgate-300x3",
        "receive-interval 300", "detect-multiplier 3", "address-family ipv4 vpn",
        "neighbor fd99::12 route-map MESHGATE-NOTHING out",
        "neighbor fd99::12 capability extended-nexthop",
    ),
    "bird": (
        'password "s3cret";', "ttl security on;", "hold time 12;", "export none;",
        "bfd { interval 300 ms; multiplier 3; };", "vpn4 mpls {", "protocol bfd { }",
        "extended next hop on;",
    ),
    "gobgp": (
        'auth-password = "s3cret"', "ttl-min = 255", "hold-time = 12",
        'afi-safi-name = "l3vpn-ipv6-unicast"', 'default-export-policy = "reject-route"',
    ),
    "iosxr": (
        "password clear s3cret", "ttl-security", "timers 4 12", "bfd minimum-interval 300",
        "bfd multiplier 3", "address-family vpnv4 unicast", "route-policy MESHGATE-NOTHING out",
    ),
    "junos": (
        'authentication-key "s3cret"', "multihop ttl 255", "hold-time 12",
        "bfd-liveness-detection minimum-interval 300", "family inet-vpn unicast",
        "export MESHGATE-NOTHING", "# GTSM",
    ),
}  # fmt: skip


@pytest.mark.parametrize("router", SAID)
def test_each_router_is_told_what_the_session_has_and_no_more(router: str) -> None:
    full, plain = text(router, FULL), text(router, PLAIN)
    missing = [words for words in SAID[router] if words not in full]
    assert not missing, full
    assert not [words for words in SAID[router] if words in plain], plain
    assert "65101" in plain
    assert "east-1" in plain


@pytest.mark.parametrize("router", SAID)
def test_the_order_of_neighbours_does_not_count(router: str) -> None:
    assert text(router, FULL, PLAIN, FAR) == text(router, FAR, PLAIN, FULL)
    assert [one.address.version for one in in_order([FULL, FAR, PLAIN])] == [4, 4, 6]


@pytest.mark.parametrize(
    ("router", "words"),
    [
        ("frr", ("ebgp-multihop 4", "port 1790")),
        ("bird", ("multihop 4;", "port 1790")),
        ("gobgp", ("multihop-ttl = 4", "remote-port = 1790")),
        ("iosxr", ("ebgp-multihop 4",)),
        ("junos", ("multihop ttl 4",)),
    ],
)
def test_a_router_that_is_far_and_dials_itself(router: str, words: tuple[str, ...]) -> None:
    said = text(router, FAR)
    assert all(one in said for one in words), said
    assert "passive" not in said


@pytest.mark.parametrize(
    ("router", "words"),
    [
        ("frr", "neighbor 10.99.0.13 route-reflector-client"),
        ("bird", "rr client;"),
        ("gobgp", "route-reflector-client = true"),
        ("iosxr", "route-reflector-client"),
        ("junos", "cluster 10.99.0.1"),
    ],
)
def test_nodes_of_the_routers_own_as_are_clients_of_its_reflector(router: str, words: str) -> None:
    assert words in text(router, INNER)
    assert words not in text(router, PLAIN)


@pytest.mark.parametrize(
    ("router", "password"),
    [
        ("frr", "s3 cret"),
        ("iosxr", "s3 cret"),
        *((one, 's3"cret') for one in ("bird", "gobgp", "junos")),
    ],
)
def test_a_password_that_a_router_cannot_read_is_refused(router: str, password: str) -> None:
    with pytest.raises(ValueError, match="cannot say a password"):
        text(router, replace(FULL, password=password))
    with pytest.raises(ValueError, match="cannot say a password"):
        text(router, replace(FULL, password="s3cret\nno router bgp 65000"))  # noqa: S106


def test_gobgps_file_is_toml_with_graceful_restart_for_unicast_alone() -> None:
    tree = tomllib.loads(text("gobgp", FULL))
    (neighbor,) = tree["neighbors"]
    families = {
        one["config"]["afi-safi-name"]: "mp-graceful-restart" in one
        for one in neighbor["afi-safis"]
    }
    assert families == {
        "ipv4-unicast": True, "ipv6-unicast": True,
        "l3vpn-ipv4-unicast": False, "l3vpn-ipv6-unicast": False,
    }  # fmt: skip
    with pytest.raises(ValueError, match="router id"):
        gobgp.router_config(65000, None, [PLAIN])


def test_a_router_keeps_its_identifier_when_none_is_given() -> None:
    assert "router-id" not in frr.router_config(65000, None, [PLAIN])


def test_a_provider_edge_announces_its_locator_and_has_a_vrf_for_each_tenant() -> None:
    locator = IPv6Network("fcbb:bbfe:0:5::/64")
    networks = (ip_network("10.50.0.0/24"), ip_network("fd50::/64"))
    vrfs = [RouterVRF("blue", "10.99.0.5:1", ("65000:100",), networks)]
    said = edge_config(65000, ROUTER_ID, [PLAIN], (locator, IPv6Address("fd99::5")), vrfs)
    assert f"prefix {locator} func-bits 16" in locator_config(locator)
    assert f"  network {locator}\n" in said
    part = said[said.index("router bgp 65000 vrf blue") :]
    for words in (
        "rd vpn export 10.99.0.5:1", "rt vpn both 65000:100", "sid vpn export auto",
        "nexthop vpn export fd99::5",
    ):  # fmt: skip
        assert part.count(words) == 2, words
    assert part.count("redistribute connected route-map MESHGATE-blue") == 2
    assert "ip prefix-list MESHGATE-blue permit 10.50.0.0/24" in said
    assert "ipv6 prefix-list MESHGATE-blue permit fd50::/64" in said
