"""VRF and CiliumSRv6VRF documents as rows."""

from ipaddress import IPv6Address, ip_network
from typing import Any

import pytest

from mesh.core.model import PodSelector, Requirement, Selector
from mesh.core.strict import Wrong
from mesh.objects.schema import ObjectKey, Parsed, Place
from srv6.vrf.kind import KINDS, VRF

OURS, CILIUM = KINDS
TENANT_A = Selector((Requirement("tenant", "In", ("a",)),))


def parsed(spec: dict[str, Any], **metadata: Any) -> Parsed:
    place = Place("east", "vrf.yaml", ObjectKey("VRF", "", "blue"))
    document = {
        "apiVersion": "meshgate.io/v1alpha1",
        "kind": "VRF",
        "metadata": {"name": "blue", **metadata},
        "spec": {"destinations": ["0.0.0.0/0"], **spec},
    }
    return OURS.parse(place, document)


def row(spec: dict[str, Any], **metadata: Any) -> VRF:
    found = parsed(spec, **metadata).row
    assert isinstance(found, VRF)
    return found


def test_the_document_of_the_guide() -> None:
    """A bare import counts both ways; what is not written is ours to choose."""
    found = row(
        {
            "pods": [{"namespaceSelector": {"matchLabels": {"tenant": "a"}}, "podSelector": {}}],
            "destinations": ["0.0.0.0/0", "::/0"],
            "import": ["65001:100", "65001:90", "65001:100"],
            "addresses": ["10.50.0.0/24", "fd50::/64"],
            "peers": {"matchLabels": {"fabric": "dc1"}},
        },
        labels={"tier": "gold"},
    )
    assert found.selectors == (PodSelector(TENANT_A, Selector()),)
    assert found.imports == found.exports == ("65001:100", "65001:90")
    assert (found.rd, found.behaviour, found.advertise) == ("", "DT46", "podAddresses")
    assert found.addresses == (ip_network("10.50.0.0/24"), ip_network("fd50::/64"))
    assert found.peers == Selector((Requirement("fabric", "In", ("dc1",)),))
    assert found.labels == (("tier", "gold"),)


def test_values_that_the_routers_demand() -> None:
    found = row(
        {
            "import": ["65001:100"],
            "export": ["10.0.0.1:7", "4200000000:1"],
            "routeDistinguisher": "10.99.0.1:7",
            "sid": "fcbb:bb01:1:100::",
            "segments": ["fcbb:bb09::1"],
            "advertise": "prefixes",
            "prefixes": ["10.60.0.0/16"],
            "maxPrefixes": 5,
        }
    )
    assert found.exports == ("10.0.0.1:7", "4200000000:1")
    assert (found.rd, found.max_prefixes) == ("10.99.0.1:7", 5)
    assert found.sid == IPv6Address("fcbb:bb01:1:100::")
    assert found.segments == (IPv6Address("fcbb:bb09::1"),)
    assert row({"import": ["65001:100"], "export": []}).exports == ()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"destinations": []}, "spec.destinations"),
        ({"pods": [{}]}, "spec.pods[0]"),
        ({"import": ["65001"]}, "spec.import[0]"),
        ({"import": ["65001:100\n"]}, "spec.import[0]"),
        ({"import": ["10.0.0.256:1"]}, "spec.import[0]"),
        ({"import": ["10.0.0.1:65536"]}, "spec.import[0]"),
        ({"export": ["65536:65536"]}, "spec.export[0]"),
        ({"import": ["4294967296:1"]}, "spec.import[0]"),
        ({"routeDistinguisher": "mine"}, "spec.routeDistinguisher"),
        ({"behaviour": "DX4"}, "spec.behaviour"),
        ({"advertise": "prefixes"}, "spec.prefixes"),
        ({"prefixes": ["10.0.0.0/8"]}, "spec.prefixes"),
        ({"segments": ["10.0.0.1"]}, "spec.segments[0]"),
        ({"segments": ["fd00::1"] * 8}, "spec.segments"),
        ({"sid": "10.0.0.1"}, "spec.sid"),
        ({"sid": "fcbb:bb01:1:100::", "behaviour": "DT4AndDT6"}, "spec.sid"),
        ({"addresses": ["10.50.0.0/16", "10.50.1.0/24"]}, "spec.addresses[1]"),
        ({"maxPrefixes": 0}, "spec.maxPrefixes"),
        ({"vrfID": 7}, "spec.vrfID"),
    ],
)
def test_a_wrong_field_refuses_the_object_by_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(Wrong) as wrong:
        parsed(spec)
    assert wrong.value.path == path


def cilium(rules: list[dict[str, Any]], **spec: Any) -> Parsed:
    place = Place("east", "vrf.yaml", ObjectKey("CiliumSRv6VRF", "", "red"))
    document = {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumSRv6VRF",
        "metadata": {"name": "red"},
        "spec": {"vrfID": 1, "rules": rules, **spec},
    }
    return CILIUM.parse(place, document)


RULE: dict[str, Any] = {
    "selectors": [{"endpointSelector": {"matchLabels": {"tenant": "a"}}}],
    "destinationCIDRs": ["10.0.0.0/8"],
}


def test_ciliums_document_is_read_as_it_is() -> None:
    found = cilium([RULE], importRouteTarget="65000:1", exportRouteTarget="65000:2")
    assert found.row.selectors == (PodSelector(None, TENANT_A),)
    assert (found.row.imports, found.row.exports) == (("65000:1",), ("65000:2",))
    assert found.row.destinations == (ip_network("10.0.0.0/8"),)
    assert cilium([RULE], importRouteTarget="65000:1").row.exports == ("65000:1",)
    assert not found.findings


def test_rules_with_different_networks_are_a_finding() -> None:
    other = RULE | {"destinationCIDRs": ["192.0.2.0/24"]}
    found = cilium([RULE, other])
    assert [finding.code for finding in found.findings] == ["M106"]
    assert len(found.row.destinations) == 2


def test_a_wrong_target_of_ciliums_names_its_field() -> None:
    with pytest.raises(Wrong, match=r"spec\.importRouteTarget"):
        cilium([RULE], importRouteTarget="red")
