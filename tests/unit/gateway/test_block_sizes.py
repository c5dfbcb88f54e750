"""Block sizes of pools, in claims and in what nodes make of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from gateway import blocks, claims
from gateway.lending import LetGo
from gateway.maps import block_table, write_owners
from gateway.pool import POOLS
from mesh.core.feature import Want
from mesh.core.model import Claim, ClaimKey
from mesh.core.table import Changes
from tests.unit.gateway.test_egress_pools import POOL, Cluster, policy

A = ip_address("198.51.100.0")
SMALL = replace(POOL, block_size=64)


def claim(pool: str, number: int, owner: str = "east-1/0", epoch: int = 1) -> Claim:
    return Claim(blocks.NOUN, pool, number, owner, epoch)


@pytest.mark.parametrize(
    ("pool", "last", "ports"),
    [
        ("198.51.100.0", 251, (65280, 65535)),
        ("198.51.100.0_64", 1007, (65472, 65535)),
        ("198.51.100.0_1024", 62, (64512, 65535)),
        ("2001:db8::1_512", 125, (65024, 65535)),
    ],
)
def test_a_block_is_what_its_pool_says(pool: str, last: int, ports: tuple[int, int]) -> None:
    assert blocks.is_block(claim(pool, last), 256)
    assert not blocks.is_block(claim(pool, last + 1), 256)
    block = blocks.block_of_claim(claim(pool, last), "east", 256)
    assert (block.first, block.last) == ports
    assert str(block.address) == pool.partition("_")[0]


@pytest.mark.parametrize("pool", ["198.51.100.0_100", "rubbish_64", "1.2.3.4_64_64", "1.2.3.4_x"])
def test_another_size_is_no_block(pool: str) -> None:
    assert not blocks.is_block(claim(pool, 1), 256)


def test_numbers_say_their_size_to_bpf() -> None:
    one, other = claim("198.51.100.0_512", 7), claim("198.51.100.0", 7)
    assert blocks.coded(one) == 512 << 16 | 7
    assert blocks.coded(other) == 7
    assert blocks.size_of(blocks.coded(one), 256) == 512
    held = {ClaimKey(c.noun, c.pool, c.number): c for c in (replace(one, epoch=5), other)}
    assert blocks.own_blocks(A, held) == {A: (512 << 16 | 7,)}
    table = block_table()
    row = blocks.BlockOwner(ip_address("10.99.0.11"), 5)  # type: ignore[arg-type]
    key = ClaimKey(one.noun, one.pool, one.number)
    write_owners(table, Changes({key: row}, frozenset()))
    assert table.rows()[0]["number"].tolist() == [512 << 16 | 7]


def test_the_owner_of_an_address_says_the_size_of_its_blocks() -> None:
    want = claims.egress_want(A, "erp", 512)
    assert want.owner == "erp#512@198.51.100.0"
    assert (claims.policy_of(want.owner), claims.size_of(want.owner)) == ("erp", 512)
    assert claims.named_number(want) == claims.named_number(claims.egress_want(A, "erp"))
    plain = claims.egress_want(A, "erp")
    assert (claims.policy_of(plain.owner), claims.size_of(plain.owner)) == ("erp", 0)


def test_blocks_of_a_pool_are_wanted_in_its_size_and_fixed_addresses_as_configured() -> None:
    fixed = policy("fixed", pool="", addresses=(ip_address("198.51.100.5"),))
    it = Cluster(policy("erp"), fixed, pools=(SMALL,))
    it.cover("east-1")
    assert {want.pool for want in it.egress.wants[0].rows} == {"198.51.100.0_64", "198.51.100.5"}
    claimable = it.egress.claims[0]
    assert len(claimable.candidates(Want("block", "198.51.100.0_64", "east-1/0"))) == 1008
    assert len(claimable.candidates(Want("block", "198.51.100.5", "east-1/0"))) == 252
    assert len(claimable.candidates(Want("block", "198.51.100.5_65", "east-1/0"))) == 0


def test_an_address_keeps_its_blocks_when_the_pool_says_another_size() -> None:
    it = Cluster(policy("erp"), pools=(SMALL,))
    it.cover("east-1")
    it.objects[POOLS].replace({"legacy": replace(POOL, block_size=512)})
    it.settle()
    assert {want.pool for want in it.egress.wants[0].rows} == {"198.51.100.0_64"}
    assert it.addresses() == {"erp active": [str(A)]}
    assert it.findings()["M272"] == "spec.blockSize"


def test_a_node_lets_go_the_block_that_bpf_has_with_its_size() -> None:
    one, asked = LetGo("east-1"), list[tuple[object, int]]()
    key = ClaimKey(blocks.NOUN, "198.51.100.0_512", 7)
    one.take(Changes({key: claim(key.pool, 7, epoch=9)}, frozenset()))
    for _ in range(2):
        one.look(lambda *block: bool(asked.append(block)))
    assert asked == [(A, 512 << 16 | 7)] * 2
    assert one.told == {"block/198.51.100.0_512/7": 9}
