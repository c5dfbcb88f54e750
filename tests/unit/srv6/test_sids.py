"""SIDs as functions of locators."""

from ipaddress import IPv6Address, IPv6Network

import pytest

from mesh.core.model import Claim, ClaimKey
from srv6 import sids
from srv6.behaviours import CODES, FORMS, NAMES, families_of, name_of
from srv6.sids import SID, SIDState

BLOCK = IPv6Network("fcbb:bb01::/32")
LOCATOR = IPv6Network("fcbb:bb01:1::/48")
POOL = "fcbb:bb01:1::_48_64"


def claim(number: int, owner: str = "blue/End.DT46", pool: str = POOL) -> Claim:
    return Claim("sid", pool, number, owner, 1)


@pytest.mark.parametrize(
    ("locator", "pool"),
    [
        (LOCATOR, POOL),
        (IPv6Network("fcbb:bb00:5::/64"), "fcbb:bb00:5::_64_80"),
        (IPv6Network("fc00::/88"), "fc00::_88_104"),
    ],
)
def test_a_locator_is_the_pool_of_its_functions(locator: IPv6Network, pool: str) -> None:
    assert sids.pool_of(locator) == pool
    assert sids.locator_of(pool) == locator


def test_a_locator_without_room_for_function_and_argument_has_no_pool() -> None:
    with pytest.raises(ValueError, match="longer than /88"):
        sids.pool_of(IPv6Network("fc00::/89"))


@pytest.mark.parametrize(
    "pool", ["", "x", "10.0.0.0_16_24", "fcbb:bb01:1::_48_63", "fc00::_x_16", "fc00::_112_128"]
)
def test_another_text_is_no_pool_of_functions(pool: str) -> None:
    assert sids.locator_of(pool) is None


def test_a_claim_alone_gives_the_sid() -> None:
    """Functions are counted from 0xE000, and the block is that of the pool (RFC 8986 3.1)."""
    row = sids.sid_of(claim(0xE000), {LOCATOR: "east-1"}, [BLOCK], SIDState.ACTIVE)
    address = IPv6Address("fcbb:bb01:1:e000::")
    assert row == SID(address, "east-1", "End.DT46", "blue", SIDState.ACTIVE, 32, 48)
    assert row.structure == (32, 16, 16, 0, 0, 0)
    assert range(0xE000, 0x10000) == sids.ALLOCATED


@pytest.mark.parametrize(
    "wrong",
    [
        claim(1 << 20),
        claim(0xE000, owner="blue"),
        claim(0xE000, pool="fcbb:bb01:2::_48_64"),
        claim(0xE000, pool="nonsense"),
    ],
)
def test_a_claim_that_is_no_sid_of_a_node_makes_none(wrong: Claim) -> None:
    assert sids.sid_of(wrong, {LOCATOR: "east-1"}, [BLOCK], SIDState.ACTIVE) is None


@pytest.mark.parametrize(
    ("sid", "function"),
    [
        ("fcbb:bb01:1:100::", 0x100),
        ("fcbb:bb01:1:e007::", 0xE007),
        ("fcbb:bb01:1::", None),  # the node's own
        ("fcbb:bb01:1:100::1", None),  # bits behind the function
        ("fcbb:bb01:2:100::", None),
    ],
)
def test_the_function_of_a_named_sid(sid: str, function: int | None) -> None:
    assert sids.function_of(IPv6Address(sid), LOCATOR) == function


def test_owners_say_vrf_behaviour_and_a_named_function() -> None:
    assert sids.read_owner(sids.owner_of("blue", "End.DT4")) == ("blue", "End.DT4", None)
    assert sids.read_owner(sids.owner_of("blue", "uDT46", 0x100)) == ("blue", "uDT46", 0x100)
    assert sids.read_owner("nonsense") == ("nonsense", "", None)


def test_held_and_resting_sids_and_the_nodes_own() -> None:
    """A SID that rests goes on decapsulating until another VRF has it."""
    held = {ClaimKey("sid", POOL, 0xE000): claim(0xE000)}
    resting = {
        ClaimKey("sid", POOL, 0xE000): claim(0xE000, "green/End.DT46"),
        ClaimKey("sid", POOL, 0xE001): claim(0xE001, "green/End.DT46"),
    }
    rows = sids.sids_of(held, resting, {LOCATOR: "east-1"}, [BLOCK])
    assert {key.number: (row.vrf, row.state) for key, row in rows.items()} == {
        0xE000: ("blue", SIDState.ACTIVE),
        0xE001: ("green", SIDState.RESTING),
    }
    own = sids.node_sid("east-1", LOCATOR, [BLOCK], csid=False)
    assert (own.sid, own.behaviour, own.vrf) == (LOCATOR.network_address, "End", "")
    assert sids.node_sid("east-1", LOCATOR, [], csid=True).behaviour == "uN"
    assert sids.node_sid("east-1", LOCATOR, [], csid=True).block == 48


def test_every_form_has_code_points_and_takes_both_families() -> None:
    """RFC 8986 10.2, RFC 9800."""
    for forms in FORMS.values():
        assert all(NAMES[CODES[form]] == form for form in forms)
        assert {family for form in forms for family in families_of(form)} == {4, 6}
    assert (name_of(20), name_of(0xFFFF), name_of(40000)) == ("End.DT46", "opaque", "40000")
    assert families_of("End.DX2") == ()
