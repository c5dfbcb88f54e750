"""Two CPUs and the sweep at once: no port has two owners, no owner loses its port."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from bpf import netns
from bpf.testrun import run
from tests.packet.nodes import EGRESS, LEGACY, Node
from tests.packet.packets import TCP, UDP, Other, Overlay, Packet

Nodes = dict[str, Node]
ROUNDS = 3000
#: Minus one second: also what had a packet just now.
AT_ONCE = (1 << 32) - 1


def consistent(node: Node, family: int) -> int:
    """Connections; each translated one has its mapping, each mapping its connection."""
    keys, values = node.maps[f"mg_ct_v{family}"].dump()
    held = {
        (int(value["translated_port"]), int(key["source_port"]))
        for key, value in zip(keys, values, strict=True)
        if value["translated_port"]  # a SYN that was refused is noted (D191)
    }
    reply, pods = node.maps[f"mg_nat_v{family}"].dump()
    locked = {
        (int(key["destination_port"]), int(pod["pod_port"]))
        for key, pod in zip(reply, pods, strict=True)
    }
    assert held == locked
    assert len({port for port, _ in held}) == len(held)
    return len(held)


def together(node: Node, *acts: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(act: Callable[[], None]) -> None:
        try:
            with netns.enter(node.space):
                act()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_flows_that_open_on_two_cpus_at_once_get_one_port(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    client, device = a.plan.pods["client"][family], a.devices["dpw1"]
    wires = [Packet(client, LEGACY[family], UDP(1000 + n, 53)).wire() for n in range(400)]

    def open_all() -> None:
        for wire in wires:
            run(a.programs["mg_from_pod"], wire, ctx={"ifindex": device})

    together(a, open_all, open_all)
    assert consistent(a, family) == 400


def test_two_cpus_that_want_the_same_closed_port_both_get_one(nodes: Nodes, family: int) -> None:
    """Both choose the oldest; for the slower one there is the next."""
    a = nodes["a"]
    a.own_blocks(family, 3, 9, 10, 11)
    client, device = a.plan.pods["client"][family], a.devices["dpw1"]

    def send(first: int, count: int, flags: str) -> None:
        for source in range(first, first + count):
            wire = Packet(client, LEGACY[family], TCP(source, 443, flags)).wire()
            run(a.programs["mg_from_pod"], wire, ctx={"ifindex": device})

    for flags in ("S", "RA"):
        send(10000, 1024, flags)
    together(a, lambda: send(20000, 512, "S"), lambda: send(30000, 512, "S"))
    lost = {a.reasons[i]: n for i, n in enumerate(a.drop_counts() - a.counts) if n}
    assert lost == {}
    assert consistent(a, family) == 1024


def test_a_reset_and_the_packet_that_refutes_it_cross(nodes: Nodes, family: int) -> None:
    """A connection that goes on has a mapping that lives, or its port is there to be taken."""
    a = nodes["a"]
    device, uplink = a.devices["dpw1"], a.devices["dpwup"]
    client = a.plan.pods["client"][family]
    port = a.from_pod("client", Packet(client, LEGACY[family], TCP(40000, 443, "S"))).overlay
    assert isinstance(port.inner.l4, TCP)
    reset = Packet(LEGACY[family], EGRESS[family], TCP(443, port.inner.l4.source, "R"))
    reset_wire = Overlay("10.99.0.13", "10.99.0.11", 2, reset).wire()
    first = Packet(client, LEGACY[family], TCP(40000, 443, "A"), bytes(12), id=7, more=True)
    a.from_pod("client", first)
    # Noted, then dropped without an answer: it stays as it is, so the kernel can repeat it.
    big = first.but(l4=Other(6), payload=bytes(1500), offset=32, more=False).wire()
    sent, over = [0], threading.Event()

    def send() -> None:
        try:
            while not over.is_set():
                run(a.programs["mg_from_pod"], big, 1000, ctx={"ifindex": device})
                sent[0] += 1
        finally:
            over.set()

    def refuse() -> None:
        try:
            for _ in range(300):
                run(a.programs["mg_from_uplink"], reset_wire, ctx={"ifindex": uplink})
                refuted = sent[0] + 2
                while sent[0] < refuted and not over.is_set():
                    time.sleep(0.0005)
                assert not a.maps[f"mg_nat_v{family}"].dump()[1]["closed"].any()
        finally:
            over.set()

    together(a, send, refuse)


@pytest.mark.slow
def test_connections_come_and_go_on_two_cpus_under_the_sweep(nodes: Nodes, family: int) -> None:
    a = nodes["a"]
    a.own_blocks(family, 3)
    client, device = a.plan.pods["client"][family], a.devices["dpw1"]

    def live(seed: int) -> Callable[[], None]:
        def act() -> None:
            dice = random.Random(seed)
            for _ in range(ROUNDS):
                source = dice.randrange(400)
                flags = dice.choice(["S", "S", "S", "RA", "A"])
                wire = Packet(client, LEGACY[family], TCP(source, 443, flags)).wire()
                run(a.programs["mg_from_pod"], wire, ctx={"ifindex": device})
                back = Packet(LEGACY[family], EGRESS[family], TCP(443, 1792 + source % 256, "RA"))
                overlay = Overlay("10.99.0.13", "10.99.0.11", 2, back).wire()
                run(a.programs["mg_from_uplink"], overlay, ctx={"ifindex": a.devices["dpwup"]})

        return act

    counts = []

    def sweep() -> None:
        for _ in range(200):
            counts.append(len(a.maps[f"mg_nat_v{family}"].dump()[0]))
            a.sweep(closed=AT_ONCE)

    together(a, live(1), live(2), sweep)
    assert max(counts) > 0
    assert consistent(a, family) <= 256
    # A run that the sweep has returned rests: with all of them resting nothing can open.
    lost = {a.reasons[i] for i, n in enumerate(a.drop_counts() - a.counts) if n}
    assert lost <= {"DROP_NO_NAT_MAPPING", "DROP_MID_STREAM", "DROP_NO_RUN"}
