"""Where egress policies lead: networks in which no cluster without a contract has a place."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.networks import destination, destinations_of
from gateway.policy import EgressPolicy
from mesh.core.model import Network, Selector


def policy(destinations: str, excluded: str = "") -> EgressPolicy:
    parts = (tuple(map(ip_network, text.split())) for text in (destinations, excluded))
    return EgressPolicy("erp", (), *parts, (), Selector())


@pytest.mark.parametrize(
    ("destinations", "excluded", "left"),
    [
        ("192.0.2.0/24 2001:db8::/32", "", "192.0.2.0/24 2001:db8::/32"),
        ("192.0.2.0/24 192.0.2.0/24", "", "192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25"),
        ("192.0.2.0/24", "192.0.2.0/24", ""),
        ("192.0.2.0/24", "192.0.0.0/16", ""),
        ("192.0.2.0/24", "10.0.0.0/8 ::/0", "192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.0/26 192.0.2.128/25", "192.0.2.64/26"),
        ("::/0", "8000::/1 4000::/2", "::/2"),
    ],
)
def test_what_a_policy_excludes_is_no_destination(
    destinations: str, excluded: str, left: str
) -> None:
    assert list(map(str, destinations_of("erp", policy(destinations, excluded)))) == left.split()


def test_everything_but_private_space_leaves_private_space_free() -> None:
    found: list[Network] = destinations_of("erp", policy("0.0.0.0/0", "10.0.0.0/8"))
    assert sum(network.num_addresses for network in found) == 2**32 - 2**24
    assert not any(network.overlaps(ip_network("10.0.0.0/8")) for network in found)


def test_a_destination_is_one_as_long_as_a_policy_has_it() -> None:
    one = ip_network("192.0.2.0/24")
    assert destination(one, {"erp": policy("192.0.2.0/24")}) == {one: None}
    assert destination(one, {}) == {}
