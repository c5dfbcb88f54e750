"""Runs of ports: lent to one pod at a time, written down before the first packet, returned."""

from collections import Counter
from ipaddress import ip_address

import numpy as np
import pytest

from bpf import netns
from bpf.testrun import run
from tests.packet.nodes import (
    BLOCKS,
    COVERED,
    EGRESS,
    HEAD,
    LEGACY,
    REDIRECT,
    TAIL,
    Got,
    Node,
    Pod,
    addr_value,
)  # fmt: skip
from tests.packet.packets import TCP, UDP, Error, Overlay, Packet
from tests.packet.test_races import together

Nodes = dict[str, Node]
RUN, REST_S = 16, 120
OTHER = {4: "192.0.2.11", 6: "2001:db8:2::11"}


@pytest.fixture
def a(nodes: Nodes) -> Node:
    """Both pods are covered."""
    a = nodes["a"]
    web = a.plan.pods["web"]
    a.pod(Pod(web.device, web.identity, web.addresses, 1))
    return a


def open_from(a: Node, family: int, pod: str, number: int, to: str = "") -> Got:
    source = a.plan.pods[pod][family]
    packet = Packet(source, to or LEGACY[family], TCP(10000 + number, 443, "S"))
    return a.from_pod(pod, packet)


def port_of(got: Got) -> int:
    assert got.dropped == {}
    l4 = got.overlay.inner.l4
    assert isinstance(l4, TCP | UDP)
    return l4.source


def run_of(port: int) -> int:
    return (port - 1024) // RUN


def end(a: Node, family: int, pod: str, number: int) -> None:
    """The connection is reset by its pod, and the sweep forgets it."""
    source = a.plan.pods[pod][family]
    a.from_pod(pod, Packet(source, LEGACY[family], TCP(10000 + number, 443, "RA")))


def pass_rest(a: Node, seconds: float) -> None:
    """Runs were returned that much earlier."""
    keys, values = a.maps["mg_run"].dump()
    values["returned"] -= np.uint64(seconds * 1e9)
    a.maps["mg_run"].update(keys, values)


def unused(a: Node) -> None:
    """The last mapping of every run was met an hour ago."""
    keys, values = a.maps["mg_run"].dump()
    values["used"] -= np.uint32(3600)
    a.maps["mg_run"].update(keys, values)


def test_a_run_belongs_to_one_pod_and_the_log_says_to_which(a: Node, family: int) -> None:
    ports = {
        pod: [port_of(open_from(a, family, pod, number)) for number in range(100)]
        for pod in ("client", "web")
    }
    log = a.lent()
    for pod, used in ports.items():
        address = a.plan.pods[pod][family]
        lent = {run for kind, whose, run in log if (kind, whose) == ("LENT", address)}
        assert {run_of(port) for port in used} == lent
        assert len(lent) == 7  # of 16 ports for 100 connections to one remote
    assert max(Counter(run for _, _, run in log).values()) == 1
    assert {run * RUN // 256 for _, _, run in log} <= set(BLOCKS["a"])


def test_one_run_serves_sixteen_connections_to_each_remote(a: Node, family: int) -> None:
    for remote in (LEGACY[family], OTHER[family]):
        for number in range(RUN):
            port_of(open_from(a, family, "client", number, remote))
    assert len(a.lent()) == 1


@pytest.mark.parametrize("runs", [1, 2, 64])
def test_a_pod_has_no_more_runs_than_its_quota(a: Node, family: int, runs: int) -> None:
    a.own_blocks(family, *range(20, 28))
    a.egress(COVERED[family], 1, EGRESS[family], runs=runs)
    for number in range(runs * RUN):
        port_of(open_from(a, family, "client", number))
    got = open_from(a, family, "client", 5000)
    assert (got.verdict, got.dropped) == (REDIRECT, {"PORT_QUOTA": 1})
    assert isinstance(got.packet.l4, Error)
    assert (got.packet.l4.type, got.packet.l4.code) == {4: (3, 13), 6: (1, 1)}[family]
    assert len(a.lent()) == runs
    port_of(open_from(a, family, "client", 5000, OTHER[family]))
    port_of(open_from(a, family, "web", 0))


def test_without_a_quota_a_pod_has_64_runs_at_most(a: Node, family: int) -> None:
    a.own_blocks(family, *range(20, 28))
    for number in range(1024):
        port_of(open_from(a, family, "client", number))
    assert open_from(a, family, "client", 5000).dropped == {"PORT_QUOTA": 1}
    port_of(open_from(a, family, "web", 0))


def test_a_pod_opens_no_more_in_a_second_than_its_rate(a: Node, family: int) -> None:
    a.egress(COVERED[family], 1, EGRESS[family], rate=20)
    refused = [open_from(a, family, "client", number) for number in range(60)]
    dropped = [got for got in refused if got.dropped]
    assert 20 <= 60 - len(dropped) <= 40
    assert dropped[0].dropped == {"RATE_LIMITED": 1}
    assert (dropped[0].packet.l4.type, dropped[0].packet.l4.code) == {4: (3, 13), 6: (1, 1)}[family]
    port_of(open_from(a, family, "web", 0))
    source = a.plan.pods["client"][family]
    goes_on = Packet(source, LEGACY[family], TCP(10000, 443, "A"))
    assert a.from_pod("client", goes_on).dropped == {}


def test_a_full_block_refuses_and_takes_nothing_away(a: Node, family: int) -> None:
    a.own_blocks(family, 3)
    ports = [port_of(open_from(a, family, "client", number)) for number in range(256)]
    got = open_from(a, family, "client", 5000)
    assert (got.verdict, got.dropped) == (REDIRECT, {"NO_RUN": 1})
    assert (got.packet.l4.type, got.packet.l4.code) == {4: (3, 1), 6: (1, 3)}[family]
    assert open_from(a, family, "web", 0).dropped == {"NO_RUN": 1}
    for number, port in enumerate(ports):
        answer = Packet(LEGACY[family], EGRESS[family], TCP(443, port, "SA"))
        back = a.from_uplink(Overlay("10.99.0.13", "10.99.0.11", 2, answer))
        assert back.packet.l4 == TCP(443, 10000 + number, "SA")


def test_a_run_without_a_mapping_is_returned_and_rests(a: Node, family: int) -> None:
    a.own_blocks(family, 3)
    port = port_of(open_from(a, family, "client", 0))
    client = a.plan.pods["client"][family]
    unused(a)
    a.sweep(run=600)
    assert a.lent() == [("LENT", client, run_of(port))]  # its mapping lives
    end(a, family, "client", 0)
    a.age(10)
    a.sweep(closed=5)
    unused(a)
    a.sweep(run=600)
    assert a.lent()[1:] == [("LENT_RETURNED", client, run_of(port))]
    a.sweep(run=600)
    assert len(a.lent()) == 2

    others = {run_of(port_of(open_from(a, family, "web", number))) for number in range(240)}
    assert len(others) == 15
    assert run_of(port) not in others
    assert open_from(a, family, "web", 1000).dropped == {"NO_RUN": 1}
    pass_rest(a, REST_S - 5)
    a.sweep(run=600)
    assert open_from(a, family, "web", 1001).dropped == {"NO_RUN": 1}
    pass_rest(a, 10)
    a.sweep(run=600)
    assert run_of(port_of(open_from(a, family, "web", 1002))) == run_of(port)
    assert a.lent()[-1] == ("LENT", a.plan.pods["web"][family], run_of(port))


def test_a_run_whose_mapping_came_while_it_was_returned_is_lent_on(a: Node, family: int) -> None:
    port = port_of(open_from(a, family, "client", 0))
    client = a.plan.pods["client"][family]
    unused(a)
    keys, values = a.maps["mg_run"].dump()
    values["returned"] = 1
    a.maps["mg_run"].update(keys, values)
    a.sweep(run=600)
    assert a.lent() == [("LENT", client, run_of(port))] * 2
    assert not a.maps["mg_run"].dump()[1]["returned"].any()


def test_a_mapping_of_a_former_version_gets_its_run_lent(a: Node, family: int) -> None:
    """So its run is nobody else's, and the history knows it from now on."""
    ports = [port_of(open_from(a, family, "client", number)) for number in range(40)]
    for name in ("mg_run", "mg_block_runs", "mg_pod_runs"):
        a.clear(name)
    for place in (HEAD, TAIL):
        a.maps["mg_lent"].update_one(place, {"line": 0})
    a.sweep(run=600)
    client = a.plan.pods["client"][family]
    assert set(a.lent()) == {("LENT", client, run_of(port)) for port in ports}
    web = {run_of(port_of(open_from(a, family, "web", number))) for number in range(100)}
    assert not web & {run_of(port) for port in ports}


def test_a_pod_that_is_gone_leaves_no_run_to_its_successor(a: Node, family: int) -> None:
    port = port_of(open_from(a, family, "client", 0))
    client = a.plan.pods["client"][family]
    a.forget(client)
    assert a.lent()[1:] == [("LENT_RETURNED", client, run_of(port))]
    again = port_of(open_from(a, family, "client", 1))
    assert run_of(again) != run_of(port)
    assert a.lent()[2:] == [("LENT", client, run_of(again))]


def test_a_full_log_lends_nothing_and_what_is_lent_goes_on(a: Node, family: int) -> None:
    port_of(open_from(a, family, "client", 0))
    a.maps["mg_lent"].update_one(HEAD, {"line": 32768 - 1024})
    assert open_from(a, family, "web", 0).dropped == {"NO_RUN": 1}
    for number in range(1, RUN):
        port_of(open_from(a, family, "client", number))
    a.maps["mg_lent"].update_one(TAIL, {"line": 32768 - 1024})
    port_of(open_from(a, family, "web", 0))


def test_runs_of_a_block_that_is_no_longer_ours_open_nothing(a: Node, family: int) -> None:
    a.own_blocks(family, 3)
    for number in range(40):
        port_of(open_from(a, family, "client", number))
    a.own_blocks(family, 9)
    blocks = {(port_of(open_from(a, family, "client", n)) - 1024) // 256 for n in range(100, 140)}
    assert blocks == {9}


def test_runs_come_out_of_the_first_block_that_has_any(a: Node, family: int) -> None:
    """So that the others fall idle and go back."""
    a.own_blocks(family, 9, 3)
    runs = [run_of(port_of(open_from(a, family, "client", n, OTHER[family]))) for n in range(257)]
    assert {one * RUN // 256 for one in runs[:256]} == {9}
    assert runs[256] * RUN // 256 == 3


def test_two_cpus_never_lend_one_run_twice(a: Node, family: int) -> None:
    def send(pod: str, first: int) -> None:
        device = a.devices[a.plan.pods[pod].device]
        for source in range(first, first + 250):
            packet = Packet(a.plan.pods[pod][family], LEGACY[family], UDP(source, 7007))
            run(a.programs["mg_from_pod"], packet.wire(), ctx={"ifindex": device})

    with netns.enter(a.space):
        together(
            a, lambda: send("client", 1000), lambda: send("web", 1000), lambda: send("web", 3000)
        )
    runs = Counter(run for _, _, run in a.lent())
    assert max(runs.values()) == 1
    whose = {run: pod for _, pod, run in a.lent()}
    reply, mappings = a.maps[f"mg_nat_v{family}"].dump()
    for key, mapping in zip(reply, mappings, strict=True):
        pod = ip_address(whose[run_of(int(key["destination_port"]))])
        assert mapping["pod"]["w"].tobytes().endswith(pod.packed)


def test_a_pod_with_its_share_takes_half_of_the_spare_block_and_no_more(
    a: Node, family: int
) -> None:
    """So the node sees that the spare is in use; the rest is for a pod that has less."""
    a.own_blocks(family, 3, 9, 10, 11)
    a.pods_of_egress(family, 10)
    for number in range(56 * RUN):
        port_of(open_from(a, family, "client", number))
    assert open_from(a, family, "client", 5000).dropped == {"NO_RUN": 1}
    for number in range(6 * RUN):  # its share of 64
        port_of(open_from(a, family, "web", number))


def test_the_last_quarter_is_for_others_when_a_node_has_all_its_blocks(
    a: Node, family: int
) -> None:
    a.own_blocks(family, *range(20, 52))
    a.pods_of_egress(family, 10)
    keys = [{"address": addr_value(EGRESS[family]), "number": number} for number in range(20, 52)]
    for key in keys[:24]:
        a.maps["mg_block_runs"].update_one(key, {"taken": (1 << 16) - 1})
    for key in keys[24:]:
        a.maps["mg_block_runs"].update_one(key, {"taken": 0})
    runs = 0
    while not open_from(a, family, "client", runs * RUN).dropped:
        for number in range(runs * RUN + 1, (runs + 1) * RUN):
            port_of(open_from(a, family, "client", number))
        runs += 1
    assert runs == 52  # 512 / 10 and one more
