"""etcd and BGP about one prefix."""

from ipaddress import IPv6Address, ip_network

from mesh.core.reconcile import Loop
from mesh.core.table import Table
from srv6.vrf.compared import DIFFER_S, Differences, ends
from srv6.vrf.paths import Paths
from srv6.vrf.rows import VRFPath, VRFReach, VRFRoute, ZonedPrefix

KEY = ZonedPrefix(7, ip_network("10.50.0.9/32"))
ONE, TWO = IPv6Address("fcbb:bb01:2:e000::"), IPv6Address("fcbb:bb01:2:e001::")
SOURCE = IPv6Address("fd99::11")


def test_a_difference_that_stays_is_told() -> None:
    now = [0.0]
    found = Differences(lambda: now[0])
    found.take({KEY: frozenset({ONE})}, {KEY: frozenset({TWO})})
    now[0] = DIFFER_S
    assert found.lasting() == {}
    now[0] = DIFFER_S + 1
    assert found.lasting() == {KEY: (ONE, TWO)}
    found.take({KEY: frozenset({ONE})}, {KEY: frozenset({TWO})})
    assert found.lasting() == {KEY: (ONE, TWO)}
    found.take({KEY: frozenset({ONE})}, {KEY: frozenset({ONE, TWO})})
    assert found.lasting() == {}


def test_what_only_one_has_is_no_difference() -> None:
    now = [0.0]
    found = Differences(lambda: now[0])
    other = ZonedPrefix(7, ip_network("10.50.0.10/32"))
    found.take({KEY: frozenset({ONE}), other: frozenset()}, {other: frozenset({TWO})})
    now[0] = 100.0
    assert found.lasting() == {}


def test_routes_end_at_the_last_segment_of_their_paths() -> None:
    path = VRFPath((IPv6Address("fcbb:bb09::1"), ONE), SOURCE, 64)
    routes = {KEY: VRFRoute((path.number, 99), 2)}
    assert ends(routes, {path.number: path}, [KEY]) == {KEY: frozenset({ONE})}
    assert ends({}, {}, [KEY]) == {}


def test_two_paths_with_one_number_are_both_closed() -> None:
    """These two really have one: the SIDs may be two tenants'."""
    first, second = (
        VRFPath((IPv6Address(f"fcbb:bb01:4:{function}::"),), SOURCE, 64)
        for function in ("2121", "7032")
    )
    assert first.number == second.number
    reach: Table[ZonedPrefix, VRFReach] = Table("reach")
    reach.mark_synced()
    loop, paths = Loop(), Paths("path", reach)
    paths.derive(loop)
    other = ZonedPrefix(8, ip_network("10.50.0.9/32"))
    reach.upsert({KEY: VRFReach((first,), 2)})
    loop.derive_all()
    assert paths.table.rows == {first.number: first}
    reach.upsert({other: VRFReach((second,), 2)})
    loop.derive_all()
    assert paths.table.rows[first.number].segments == ()
    [found] = paths.findings("east-1")
    assert "fcbb:bb01:4:2121:: and fcbb:bb01:4:7032::" in found.text
    reach.delete([KEY])
    loop.derive_all()
    assert paths.table.rows == {second.number: second}
    assert not list(paths.findings("east-1"))


def test_a_path_goes_with_the_last_route_that_names_it() -> None:
    reach: Table[ZonedPrefix, VRFReach] = Table("reach")
    reach.mark_synced()
    loop, paths = Loop(), Paths("path", reach)
    paths.derive(loop)
    one, two = VRFPath((ONE,), SOURCE), VRFPath((TWO,), SOURCE)
    other = ZonedPrefix(7, ip_network("10.50.0.10/32"))

    def numbers() -> set[int]:
        loop.derive_all()
        return set(paths.table.rows)

    reach.upsert({KEY: VRFReach((one, two), 2), other: VRFReach((one,), 2)})
    assert numbers() == {one.number, two.number}
    assert paths.table.synced
    reach.upsert({KEY: VRFReach((one,), 2)})
    assert numbers() == {one.number}
    reach.delete([KEY])
    assert numbers() == {one.number}
    reach.upsert({other: VRFReach((two,), 2)})
    assert numbers() == {two.number}
    reach.delete([other])
    assert numbers() == set()
