"""Claim number -> prefix."""

from ipaddress import ip_network

import pytest

from mesh.core.feature import Claimable, Want
from mesh.pools.prefixes import pool_name, pool_size, subnet
from srv6.controller import node_numbers


@pytest.mark.parametrize(
    ("cidr", "node_prefix", "number", "expected"),
    [
        ("10.1.0.0/16", 24, 0, "10.1.0.0/24"),
        ("10.1.0.0/16", 24, 255, "10.1.255.0/24"),
        ("fd01::/48", 64, 3, "fd01:0:0:3::/64"),
        ("fcbb:bb01::/32", 48, 2, "fcbb:bb01:2::/48"),
        ("10.9.9.0/24", 24, 0, "10.9.9.0/24"),
    ],
)
def test_a_number_is_a_subnet_of_the_pool(
    cidr: str, node_prefix: int, number: int, expected: str
) -> None:
    pool = pool_name(ip_network(cidr), node_prefix)
    assert subnet(pool, number) == ip_network(expected)


def test_a_pool_is_named_as_in_the_claims_key() -> None:
    assert pool_name(ip_network("10.1.0.0/16"), 24) == "10.1.0.0_16_24"
    assert pool_size("10.1.0.0_16_24") == 256


@pytest.mark.parametrize("number", [-1, 256])
def test_a_number_outside_of_the_pool_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="has no subnet"):
        subnet("10.1.0.0_16_24", number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "labels",
        "10.1.0.0_16",
        "10.1.0.0_16_8",
        "10.1.0.0_16_33",
        "10.1.0.1_16_24",
        "x_1_2",
        "fd01:0::_48_64",
    ],
)
def test_text_that_names_no_pool_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no pool"):
        subnet(text, 0)


def test_no_node_is_number_0_of_a_pool() -> None:
    """A NEXT-C-SID of 0 ends the list (RFC 9800); a pool of one piece is given away even so."""
    want = Want("locator", "fcbb:bb01::_32_48", "east-1")
    assert node_numbers(Claimable("locator", lambda _: range(4)), want) == range(1, 4)
    assert node_numbers(Claimable("locator", lambda _: range(1)), want) == range(1)
    assert node_numbers(Claimable("locator", lambda _: [0, 2, 3]), want) == [2, 3]
