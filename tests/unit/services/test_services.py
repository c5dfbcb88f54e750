"""Services: whose backends they have, in which cluster, and under which address and port."""

from dataclasses import replace
from ipaddress import ip_address

from mesh.core.model import (
    IP,
    Backend,
    ContainerPort,
    Pod,
    PodKey,
    Service,
    ServiceKey,
    ServicePort,
)
from mesh.services.backends import (
    BackendAddress,
    ServiceAddress,
    merged,
    own_services,
    translations,
)
from mesh.services.kinds import EndpointSlice, EndpointSliceKey, ServiceObject, ServicePortObject

WEB = ServiceKey("east", "shop", "web")
ADDRESSES = ("10.97.1.10", "fd97:1::10")


def ips(*texts: str) -> tuple[IP, ...]:
    return tuple(ip_address(text) for text in texts)


def service(**fields: object) -> ServiceObject:
    base = ServiceObject(
        "east",
        "shop",
        "web",
        addresses=ips(*ADDRESSES),
        ports=(ServicePortObject("http", "TCP", 80, 8080),),
        selector=(("app", "web"),),
        is_global=True,
    )
    return replace(base, **fields)


def pod(number: int, **fields: object) -> tuple[PodKey, Pod]:
    name = f"web-{number}"
    row = Pod(
        "east",
        "shop",
        name,
        "east-1",
        labels=(("app", "web"), ("tier", "front")),
        addresses=ips(f"10.1.0.{number}", f"fd01::{number}"),
    )
    row = replace(row, **fields)
    return PodKey("east", row.namespace, row.name), row


def backend(address: str, cluster: str = "east", port: int = 8080, name: str = "http") -> Backend:
    return Backend(ip_address(address), port, name, "TCP", cluster)


def contributed(row: ServiceObject, *pods: tuple[PodKey, Pod]) -> Service:
    return own_services({WEB: row}, dict(pods), {})[WEB]


def foreign(cluster: str, *addresses: str, **fields: object) -> Service:
    row = Service(
        cluster,
        "shop",
        "web",
        ips("10.97.2.10"),
        (ServicePort("http", "TCP", 80),),
        is_global=True,
        backends=tuple(backend(address, cluster) for address in addresses),
    )
    return replace(row, **fields)


def test_a_selector_takes_pods_of_its_namespace_that_have_all_its_labels() -> None:
    row = contributed(
        service(selector=(("app", "web"), ("tier", "front"))),
        pod(2),
        pod(1),
        pod(3, labels=(("app", "web"),)),
        pod(4, namespace="other"),
        pod(5, addresses=()),
    )
    assert [str(b.address) for b in row.backends] == [
        "10.1.0.1",
        "10.1.0.2",
        "fd01::1",
        "fd01::2",
    ]
    assert {(b.port, b.port_name, b.protocol, b.cluster) for b in row.backends} == {
        (8080, "http", "TCP", "east")
    }
    assert (row.ports, row.is_global) == ((ServicePort("http", "TCP", 80),), True)


def test_a_named_target_is_looked_up_in_each_pod() -> None:
    ports = (ServicePortObject("http", "TCP", 80, "web"),)
    row = contributed(
        service(ports=ports),
        pod(1, ports=(ContainerPort("web", "TCP", 8080),)),
        pod(2, ports=(ContainerPort("web", "TCP", 9090),)),
        pod(3, ports=(ContainerPort("web", "UDP", 7070),)),
        pod(4),
    )
    assert [(str(b.address), b.port) for b in row.backends if b.address.version == 4] == [
        ("10.1.0.1", 8080),
        ("10.1.0.2", 9090),
    ]


def test_without_a_selector_slices_name_the_backends() -> None:
    def part(name: str, **fields: object) -> tuple[EndpointSliceKey, EndpointSlice]:
        base = EndpointSlice(
            "east",
            "shop",
            name,
            service="web",
            addresses=ips("192.0.2.10"),
            ports=(ServicePort("http", "TCP", 81), ServicePort("metrics", "TCP", 9)),
        )
        row = replace(base, **fields)
        return EndpointSliceKey("east", row.namespace, name), row

    slices = dict(
        [
            part("a"),
            part("b", addresses=ips("2001:db8:2::10", "192.0.2.10")),
            part("c", service="db", addresses=ips("192.0.2.99")),
            part("d", namespace="other", addresses=ips("192.0.2.98")),
        ]
    )
    row = own_services({WEB: service(selector=None)}, dict([pod(1)]), slices)[WEB]
    assert row.backends == (backend("192.0.2.10", port=81), backend("2001:db8:2::10", port=81))


def test_a_global_service_has_what_other_clusters_share_under_its_name() -> None:
    own = {WEB: contributed(service(), pod(1))}
    rows = merged(
        own,
        [
            foreign("west", "10.2.0.1", "fd02::1"),
            foreign("north", "10.3.0.1", is_shared=False),
            foreign("south", "10.4.0.1", is_global=False),
            foreign("west", "10.2.0.9", name="db"),
            foreign("west", "10.2.0.8", namespace="other"),
            foreign("east", "10.1.0.77"),
        ],
    )
    assert {str(b.address) for b in rows[WEB].backends} == {
        "10.1.0.1",
        "fd01::1",
        "10.2.0.1",
        "fd02::1",
    }
    assert list(rows) == [WEB], "a service that only others have has no address here"


def test_a_local_service_takes_nothing_from_others_and_unshared_still_does() -> None:
    others = [foreign("west", "10.2.0.1")]
    local = {WEB: contributed(service(is_global=False))}
    assert merged(local, others) == local
    unshared = {WEB: contributed(service(is_shared=False))}
    assert merged(unshared, others)[WEB].backends == (backend("10.2.0.1", "west"),)


def test_each_address_and_port_gets_backends_of_its_family_and_port_name() -> None:
    ports = (
        ServicePortObject("http", "TCP", 80, 8080),
        ServicePortObject("dns", "UDP", 53, 5353),
    )
    row = merged(
        {WEB: contributed(service(ports=ports), pod(1))}, [foreign("west", "10.2.0.1", "fd02::1")]
    )
    rows, findings = translations(row)
    v4, v6 = ips(*ADDRESSES)

    def places(*texts: str, port: int) -> tuple[BackendAddress, ...]:
        return tuple(BackendAddress(address, port) for address in ips(*texts))

    assert rows == {
        ServiceAddress(v4, 80, "TCP"): places("10.1.0.1", "10.2.0.1", port=8080),
        ServiceAddress(v6, 80, "TCP"): places("fd01::1", "fd02::1", port=8080),
        ServiceAddress(v4, 53, "UDP"): places("10.1.0.1", port=5353),
        ServiceAddress(v6, 53, "UDP"): places("fd01::1", port=5353),
    }
    assert findings == []


def test_a_service_without_backends_still_has_a_row() -> None:
    rows, _ = translations({WEB: contributed(service())})
    assert [*rows.values()] == [(), ()]


def test_a_headless_service_has_no_row() -> None:
    row = contributed(service(addresses=()), pod(1))
    assert len(row.backends) == 2
    assert translations({WEB: row}) == ({}, [])


def test_of_two_services_with_one_address_the_first_has_it_and_the_other_is_named() -> None:
    other = ServiceKey("east", "shop", "zoo")
    rows, findings = translations(
        {
            other: replace(contributed(service(), pod(2)), name="zoo"),
            WEB: contributed(service(addresses=ips("10.97.1.10")), pod(1)),
        }
    )
    ask = ServiceAddress(ip_address("10.97.1.10"), 80, "TCP")
    assert [str(b.address) for b in rows[ask]] == ["10.1.0.1"]
    assert len(rows) == 2
    assert [(f.code, f.object) for f in findings] == [("M161", "Service/shop/zoo")]
    assert "10.97.1.10 port 80/TCP belongs to Service/shop/web" in findings[0].text


def test_the_order_of_the_inputs_changes_nothing() -> None:
    pods = [pod(number) for number in range(1, 6)]
    there, back = contributed(service(), *pods), contributed(service(), *reversed(pods))
    assert there == back
    others = [foreign("west", "10.2.0.2", "10.2.0.1"), foreign("north", "10.3.0.1")]
    assert merged({WEB: there}, others) == merged({WEB: back}, others[::-1])
