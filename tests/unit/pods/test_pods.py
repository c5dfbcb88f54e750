"""Addresses of pods: kept, spread, never doubled."""

from ipaddress import ip_address, ip_network

from mesh.core.model import Pod, PodKey
from mesh.pods.assigned import assign
from mesh.pods.links import Device, alias_of, device_name, parse_alias, pod_links
from mesh.pods.rows import macs_of

CIDRS = (ip_network("10.1.0.0/28"), ip_network("fd01::/64"))


def key(name: str) -> PodKey:
    return PodKey("east", "shop", name)


def test_a_pod_gets_the_same_offset_in_every_family() -> None:
    got = assign([key("a")], CIDRS, {})
    assert got == {key("a"): (ip_address("10.1.0.2"), ip_address("fd01::2"))}


def test_a_pod_keeps_what_the_kernel_says_it_has() -> None:
    held = {key("b"): (ip_address("10.1.0.5"), ip_address("fd01::5"))}
    got = assign([key("a"), key("b")], CIDRS, held)
    assert got[key("b")] == held[key("b")]
    assert got[key("a")][0] == ip_address("10.1.0.6")


def test_a_pod_keeps_its_address_when_its_node_gets_another_pod_cidr() -> None:
    """Every pool is claimed on its own, so a new node has its IPv4 subnet first."""
    held = assign([key("b")], CIDRS[:1], {})
    held = assign([key("a"), key("b")], CIDRS[:1], held)
    both = assign([key("a"), key("b")], CIDRS, held)
    assert {name: pair[:1] for name, pair in both.items()} == held
    assert both[key("b")] == (ip_address("10.1.0.2"), ip_address("fd01::2"))
    swapped = assign([key("a"), key("b")], CIDRS[::-1], held)
    assert swapped == {name: pair[::-1] for name, pair in both.items()}


def test_a_pod_keeps_its_addresses_while_a_pod_cidr_is_not_known() -> None:
    """A claim that cannot be read, or a Node object that is away, is no other pod CIDR."""
    held = {key("a"): (ip_address("10.1.0.5"), ip_address("fd01::5"))}
    assert assign([key("a"), key("b")], (), held) == held
    got = assign([key("a"), key("b")], CIDRS[1:], held)
    assert got == {**held, key("b"): (ip_address("fd01::6"),)}
    got = assign([key("a"), key("b")], CIDRS[:1], held)
    assert got == {**held, key("b"): (ip_address("10.1.0.6"),)}
    assert assign([], (), held) == {}


def test_a_pod_keeps_its_addresses_in_two_cidrs_of_one_family() -> None:
    cidrs = (ip_network("10.1.0.0/28"), ip_network("10.7.0.0/28"))
    held = assign([key("b")], cidrs, {})
    assert held == {key("b"): (ip_address("10.1.0.2"), ip_address("10.7.0.2"))}
    assert assign([key("a"), key("b")], cidrs, held)[key("b")] == held[key("b")]


def test_addresses_of_another_cidr_are_not_kept() -> None:
    held = {key("a"): (ip_address("10.9.0.5"), ip_address("fd01::5"))}
    assert assign([key("a")], CIDRS, held)[key("a")][0] == ip_address("10.1.0.2")


def test_a_full_cidr_leaves_pods_out_and_doubles_nothing() -> None:
    pods = [key(f"p{i:02}") for i in range(20)]
    got = assign(pods, CIDRS, {})
    assert len(got) == 13
    assert len({a[0] for a in got.values()}) == 13
    assert ip_address("10.1.0.15") not in {a[0] for a in got.values()}


def test_a_link_waits_for_the_network_namespace() -> None:
    pods = {key("a"): Pod("east", "shop", "a", "n1", addresses=(ip_address("10.1.0.2"),))}
    path = "/run/netns/mg-east-shop-a"
    pattern = "/run/netns/mg-{cluster}-{namespace}-{name}"
    assert pod_links(pods, {}, pattern, 1450) == {}
    assert pod_links(pods, {path: 7}, pattern, 1450)[key("a")].inode == 7


def test_the_alias_gives_back_pod_and_addresses() -> None:
    addresses = (ip_address("10.1.0.2"), ip_address("fd01::2"))
    assert parse_alias(alias_of(key("a"), addresses)) == (key("a"), addresses)
    assert parse_alias("uplink of somebody") is None


def test_device_names_fit_the_kernel_limit() -> None:
    assert len(device_name(key("a" * 200))) <= 15


def test_a_device_leads_to_the_mac_of_its_pod() -> None:
    mac = "0a:58:0a:01:00:02"
    device = Device(7, mac, "0e:58:0a:01:00:02", (ip_address("10.1.0.2"),))
    assert macs_of(7, {key("a"): device}) == {7: mac}
    assert macs_of(7, {}) == {}
