"""A pod that becomes covered or uncovered, and a gateway that moves, while it has connections."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

from running import ECHO_PORT, Lab, evict, report, wait
from wiretap import FAMILIES, opened, taps

CLIENT = "east/shop/client-1"  # the only covered pod of its node


@contextmanager
def manifests(lab: Lab, cluster: str = "east") -> Iterator[Path]:
    """A cluster's folder; what a test changes in it is put back."""
    directory = Path(lab.shown["manifests"][cluster])
    before = {path: path.read_text() for path in directory.glob("*.yaml")}
    try:
        yield directory
    finally:
        for path, text in before.items():
            path.write_text(text)
        wait(lab.healthy, 20, "healthy again")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@contextmanager
def conversations(lab: Lab, pod: str, *, tcp: bool = True) -> Iterator[dict[str, socket.socket]]:
    """A TCP connection and a UDP flow to the legacy server in each family; UDP only without TCP."""
    legacy = lab.shown["legacy"]
    with ExitStack() as stack:
        made = {}
        for family, address in zip(FAMILIES, legacy["addresses"], strict=True):
            kinds = ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp"))
            for kind, port in kinds if tcp else kinds[1:]:
                sock = stack.enter_context(opened(lab, pod, family, kind))
                sock.connect((address, legacy[port]))
                made[f"{port} {address}"] = sock
        yield made


def answered(sock: socket.socket) -> bool:
    """Whether what is said comes back within a while."""
    sock.settimeout(1)
    try:
        sock.send(b"x")
        return sock.recv(100).startswith(b"x")
    except OSError:
        return False


def silent(conversations: dict[str, socket.socket], seconds: float) -> set[str]:
    """The conversations that missed an answer."""
    end, missed = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        missed |= {name for name, sock in conversations.items() if not answered(sock)}
        time.sleep(0.02)
    return missed


def pods_of_policy(lab: Lab) -> Callable[[], list[str]]:
    return lambda: next(r for r in lab.table("egress") if r["cluster"] == "east")["pods"]


def test_a_pod_that_is_uncovered_and_covered_again_keeps_its_connections(lab: Lab) -> None:
    """Its node has no other covered pod; the ports that its connections use stay the node's."""
    own = {ip_address(address) for address in lab.pod(CLIENT)["addresses"]}
    listed = pods_of_policy(lab)
    with taps(lab, "router") as made, conversations(lab, CLIENT) as talks:
        with manifests(lab) as directory:
            assert not silent(talks, 0.3)
            change(directory / "pod-client-1.yaml", "app: client", "app: other")
            wait(lambda: listed() == ["shop/client-2", "shop/client-3"], 5, "it is uncovered")
            assert not silent(talks, 0.5)
        wait(lambda: len(listed()) == 3, 5, "it is covered again")
        assert not silent(talks, 0.5)
        seen = {p.source for p in made["router"].packets() if p.vni is None}
    assert not own & seen


def test_live_connections_keep_an_egress_address_that_the_policy_has_exchanged(lab: Lab) -> None:
    """New ones take the other one: the firewall refuses it, or has it in its list by then."""

    def states() -> dict[str, list[str]]:
        return {r["state"]: r["addresses"] for r in lab.table("egress") if r["cluster"] == "east"}

    def have_the_other() -> bool:
        with conversations(lab, CLIENT, tcp=False) as fresh:
            if not answered(next(sock for name, sock in fresh.items() if "." in name)):
                return True
        return any("198.51.100.11" in line for line in lab.legacy_log())

    with conversations(lab, CLIENT) as talks:
        with manifests(lab) as directory:
            assert not silent(talks, 0.3)
            change(directory / "egress.yaml", "198.51.100.10", "198.51.100.11")
            wait(lambda: states().get("draining") == ["198.51.100.10"], 10, "it drains")
            wait(have_the_other, 10, "new ones have the other address")
            assert not silent(talks, 2)
            assert states()["active"] == ["198.51.100.11", "2001:db8:100::10"]
        wait(lambda: "198.51.100.10" in states()["active"], 10, "the policy has it again")
        assert not silent(talks, 0.3)
    # By itself it would be free five minutes after the last datagram (RFC 4787 REQ-5).
    assert evict(lab, "198.51.100.11").returncode == 0
    wait(lambda: set(states()) == {"active"}, 60, "what it had meanwhile is free")


def test_a_gateway_moves_with_its_label_and_connections_go_on(lab: Lab) -> None:
    own = {ip_address(address) for address in lab.pod(CLIENT)["addresses"]}

    def gateway() -> str:
        return str(next(r for r in lab.table("egress") if r["cluster"] == "east")["gateway"])

    with taps(lab, "router") as made, conversations(lab, CLIENT) as talks:
        with manifests(lab) as directory:
            change(directory / "nodes.yaml", "    role: gateway", "    other: label")
            change(directory / "nodes.yaml", "labels: {}", "labels: {role: gateway}")
            wait(lambda: gateway() == "east-1", 5, "the gateway has moved")
            wait(lambda: not silent(talks, 0.3), 15, "connections go on")
        wait(lambda: gateway() == "east-2", 5, "the gateway is back")
        wait(lambda: not silent(talks, 0.3), 15, "connections go on")
        seen = {p.source for p in made["router"].packets() if p.vni is None}
    assert not own & seen


def test_another_mtu_of_the_uplink_is_followed_without_a_restart(lab: Lab) -> None:
    """So are the pods that are there; of small datagrams none is lost meanwhile."""
    pod, other = "west/shop/web-1", "east/shop/web-1"

    def mtus() -> set[int]:
        device = json.loads(lab.output(pod, "ip", "-j", "link", "show", "eth0"))[0]
        ends = json.loads(lab.output("west-1", "ip", "-j", "link", "show"))
        return {device["mtu"], *(e["mtu"] for e in ends if e["ifname"].startswith("mgp"))}

    def followed(mtu: int) -> bool:
        findings = lab.json("status")["findings"]
        return mtus() == {mtu} and not any(f["object"] == "west-1/uplink" for f in findings)

    before, rows = lab.processes()["west-1/agent"], (lab.pod(pod), lab.pod(other))
    with ExitStack() as stack:
        stack.enter_context(lab.echo_in(pod))
        transfers = [
            lab.probe(other, "udp", address, ECHO_PORT, 45, "--rate", 200)
            for address in rows[0]["addresses"]
        ]
        # What is longer than the smaller MTU the fabric itself loses until the pods have followed.
        stream = lab.probe(other, "tcp", rows[0]["addresses"][0], ECHO_PORT, 45, "--segment", 1200)
        try:
            lab.output("west-1", "ip", "link", "set", "uplink", "mtu", "1400")
            wait(lambda: followed(1350), 20, "the pods have the smaller MTU")
        finally:
            lab.output("west-1", "ip", "link", "set", "uplink", "mtu", "1500")
        wait(lambda: followed(1450), 20, "the pods have their MTU back")
        time.sleep(3)  # what is lost late is lost, too
        for one in (*transfers, stream):
            one.terminate()
        reports = [report(one) for one in transfers]
        found = report(stream)
    assert [one["missing"] for one in reports] == [0, 0], reports
    assert not found["error"], found
    assert found["seconds_at_zero"] <= 2, found
    assert lab.processes()["west-1/agent"] == before
    assert (lab.pod(pod)["addresses"], lab.pod(other)["addresses"]) == tuple(
        row["addresses"] for row in rows
    )
    wait(lab.healthy, 15, "healthy again")
