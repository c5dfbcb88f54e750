"""Numbers and layouts that Python needs without a datapath are those of the C sources."""

from collections.abc import Iterator

import pytest

from bpf.btf import Btf, Dtype
from bpf.build import HERE, build
from bpf.object import Object
from gateway.blocks import OWN_BLOCKS
from gateway.maps import BLOCK_KEY, BLOCK_VALUE
from gateway.policy import MOST_GATEWAYS
from gateway.rows import Binding
from mesh.core import model
from mesh.core.address import bits_before
from mesh.datapath.gathering import MARK
from mesh.datapath.hooks import VXLAN_PORT
from mesh.identity.addresses import KIND_NODE, KIND_POD, KIND_ROUTER, VALUE
from mesh.identity.labels import CLUSTER_SHIFT, FIRST_IDENTITY
from mesh.nodes.rows import HostFlag
from mesh.nodes.uplink import OVERHEAD


@pytest.fixture(scope="module")
def pod() -> Iterator[Object]:
    build()
    with Object.open(HERE / "obj" / "pod.o") as opened:
        yield opened


@pytest.fixture(scope="module")
def types(pod: Object) -> Btf:
    return pod.btf


@pytest.mark.parametrize(
    ("enum", "name", "number"),
    [
        ("run_limit", "OWN_BLOCKS", OWN_BLOCKS),
        ("gateway_limit", "GATEWAYS", MOST_GATEWAYS),
        ("order_mark", "MARK_GATHER", MARK),
        *(("binding_kind", f"BINDING_{one.name}", one.value) for one in Binding),
        ("address_kind", "ADDRESS_POD", KIND_POD),
        ("address_kind", "ADDRESS_NODE", KIND_NODE),
        ("address_kind", "ADDRESS_ROUTER", KIND_ROUTER),
        ("node_flag", "NODE_OVERLAY_V4", HostFlag.OVERLAY_V4),
        ("node_flag", "NODE_OVERLAY_V6", HostFlag.OVERLAY_V6),
        ("node_flag", "NODE_HOSTS", HostFlag.HOSTS),
        ("identity", "IDENTITY_HOST", model.IDENTITY_HOST),
        ("identity", "IDENTITY_WORLD", model.IDENTITY_WORLD),
        ("identity", "IDENTITY_REMOTE_NODE", model.IDENTITY_REMOTE_NODE),
        ("identity", "IDENTITY_RESERVED_END", FIRST_IDENTITY),
        ("identity", "IDENTITY_CLUSTER_SHIFT", CLUSTER_SHIFT),
        ("overlay_number", "VXLAN_PORT", VXLAN_PORT),
        ("overlay_number", "OVERLAY_SIZE", OVERHEAD),
    ],
)
def test_numbers(types: Btf, enum: str, name: str, number: int) -> None:
    assert types.enum(enum)[name] == number


def test_columns_of_addresses_have_the_layout_of_their_map(types: Btf) -> None:
    assert types.struct("address") == VALUE


def test_columns_of_blocks_have_the_layout_of_their_map(pod: Object) -> None:
    spec = pod.specs["mg_block"]
    assert (fields(spec.key), spec.value) == (fields(BLOCK_KEY), BLOCK_VALUE)


def fields(of: Dtype | None) -> list[tuple[str, int, int]]:
    """Name, offset and size; an address is opaque in a column."""
    assert of is not None
    return [(name, at, one.itemsize) for name, (one, at, *_) in (of.fields or {}).items()]


def test_prefixes_cover_what_stands_before_the_address(types: Btf) -> None:
    assert (bits_before(types.struct("egress_key")), bits_before(types.struct("cidr_key"))) == (
        32,
        32,
    )
