"""What has ended says so: connections when a policy comes or goes, backends and pods that go."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from running import Lab, egress, evict, wait
from wiretap import FAMILIES, opened, taps

POD = "east/shop/web-1"  # no policy covers it
PORT = 7400
FAR = {socket.AF_INET: "192.0.2.77", socket.AF_INET6: "2001:db8:2::77"}
POLICY = f"""
apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {{name: web-egress}}
spec:
  selectors: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
  destinationCIDRs: ["{FAR[socket.AF_INET]}/32", "{FAR[socket.AF_INET6]}/128"]
  pool: web
  timers: {{tcpEstablishedSeconds: 9000, udpSeconds: 600}}
  gateways: {{nodeSelector: {{matchLabels: {{role: gateway}}}}}}
"""
POOL = """
apiVersion: meshgate.io/v1alpha1
kind: EgressPool
metadata: {name: web}
spec:
  cidrs: [198.51.100.77/32, "2001:db8:100::77/128"]
  blockSize: 64
---
"""
RST = 0x04


@pytest.fixture(scope="module", autouse=True)
def healthy_afterwards(lab: Lab) -> Iterator[None]:
    """What the tests have dropped is no finding any more once a minute has fewer drops."""
    yield
    wait(lab.healthy, 90, "healthy afterwards")


@contextmanager
def manifest(lab: Lab, name: str, text: str) -> Iterator[Path]:
    """A file in east's folder; gone afterwards."""
    path = Path(lab.shown["manifests"]["east"]) / name
    path.write_text(text)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture
def far(lab: Lab) -> Iterator[dict[int, socket.socket]]:
    """Listening sockets behind the router, by family."""
    with ExitStack() as stack:
        for address in FAR.values():
            words = ["addr", "add", address, "dev", "lo"]
            lab.output("router", "ip", *words)
            stack.callback(lab.output, "router", "ip", "addr", "del", address, "dev", "lo")
        made = {}
        for family, address in FAR.items():
            made[family] = stack.enter_context(opened(lab, "router", family, socket.SOCK_STREAM))
            made[family].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wait(lambda: bound(made[family], address), 5, f"{address} is usable")  # noqa: B023
            made[family].listen(16)
        yield made


def bound(made: socket.socket, address: str) -> bool:
    """Whether the address could be bound: IPv6 tries new ones first."""
    with suppress(OSError):
        made.bind((address, PORT))
        return True
    return False


@dataclass(frozen=True)
class Talk:
    """Both ends of a connection, in the order in which they speak."""

    first: socket.socket
    second: socket.socket

    def reset(self) -> bool:
        """Whether both ends hear of it when the first one speaks."""
        with suppress(OSError):
            self.first.send(b"x")
        return all(outcome(one) == errno.ECONNRESET for one in (self.first, self.second))


def outcome(made: socket.socket) -> int:
    """The error that a reader gets, 0 for none."""
    made.settimeout(3)
    try:
        while made.recv(100):
            pass
    except OSError as error:
        return error.errno or errno.ETIMEDOUT
    return 0


def talk(
    stack: ExitStack, lab: Lab, far: dict[int, socket.socket], family: int, first: str
) -> Talk:
    pod = stack.enter_context(opened(lab, POD, family, socket.SOCK_STREAM))
    pod.connect((FAR[socket.AddressFamily(family)], PORT))
    other, _ = far[family].accept()
    stack.callback(other.close)
    for one, two in ((pod, other), (other, pod)):
        one.send(b"hello")
        assert two.recv(100) == b"hello"
    return Talk(pod, other) if first == "pod" else Talk(other, pod)


def covering(lab: Lab) -> Callable[[], bool]:
    """Whether the policy covers the pod and its node has blocks of both addresses."""

    def whole() -> bool:
        rows = [row for row in lab.table("egress") if row["policy"] == "web-egress"]
        blocks = {b["address"] for b in lab.table("block") if b["node"] == "east-1"}
        return (
            bool(rows) and bool(rows[0]["pods"]) and {"198.51.100.77", "2001:db8:100::77"} <= blocks
        )

    return whole


def test_a_policy_that_comes_resets_what_was_open(lab: Lab, far: dict[int, socket.socket]) -> None:
    """Whoever speaks first. Of the pod's own address nothing is seen outside but resets."""
    own = {ip_address(address) for address in lab.pod(POD)["addresses"]}
    with ExitStack() as stack:
        kinds = [(family, first) for family in FAMILIES for first in ("pod", "far")]
        talks = {kind: talk(stack, lab, far, *kind) for kind in kinds}
        stack.enter_context(manifest(lab, "f-new.yaml", POOL + POLICY))
        wait(covering(lab), 15, "the policy covers the pod")
        tap = stack.enter_context(taps(lab, "router"))["router"]
        assert {kind: one.reset() for kind, one in talks.items()} == dict.fromkeys(kinds, True)
        seen = [p for p in tap.packets() if p.vni is None and p.source in own]
        assert seen
        assert all(p.protocol == 6 and p.payload[13] == RST for p in seen)
        assert {len(p.payload) for p in seen} <= {20, 26}, "no data; padding of small frames"
        assert {row["packets"] > 0 for row in lab.table("reset") if row["node"] == "east-1"
                and row["source"] == "the pod's own address"} == {True}  # fmt: skip
        fresh = talk(stack, lab, far, socket.AF_INET, "pod")
        assert fresh.second.getpeername()[0] == "198.51.100.77"


def states(lab: Lab) -> dict[str, list[str]]:
    """Addresses of the policy, or of what is left of it, by state."""
    rows = [row for row in lab.table("egress") if row["policy"] == "web-egress"]
    return {row["state"]: row["addresses"] for row in rows}


def release(lab: Lab) -> None:
    """No firewall of the lab fetches the group, so nobody else gives its addresses up."""

    def rows() -> list[str]:
        return [row["state"] for row in lab.table("feed") if row["group"] == "web"]

    wait(lambda: set(rows()) <= {"deleted"}, 60, "the group has gone")
    assert egress(lab, "release", "web").returncode == 0
    wait(lambda: not rows(), 30, "the group is released")


def in_small_block(lab: Lab, address: str, port: int) -> bool:
    """Whether the port is in a block of the pod's node, which has the pool's size."""
    node = lab.pod(POD)["node"]
    held = [one for one in lab.table("block") if (one["address"], one["node"]) == (address, node)]
    assert {one["last"] - one["first"] + 1 for one in held} == {64}
    return any(one["first"] <= port <= one["last"] for one in held)


def test_connections_outlive_policy_and_pool_until_an_operator_evicts_the_address(
    lab: Lab, far: dict[int, socket.socket]
) -> None:
    """Neither end hears anything before. What is opened later has the pod's own address."""
    addresses = ["198.51.100.77", "2001:db8:100::77"]
    with ExitStack() as stack:
        with manifest(lab, "f-new.yaml", POOL + POLICY):
            wait(covering(lab), 15, "the policy covers the pod")
            talks = {f: talk(stack, lab, far, f, "pod") for f in FAMILIES}
            assert talks[socket.AF_INET].second.getpeername()[0] == "198.51.100.77"
            assert states(lab) == {"active": addresses}
            for one in talks.values():
                assert in_small_block(lab, *one.second.getpeername()[:2])
            refused = evict(lab, addresses[0])
            assert "does not drain" in refused.stderr, refused.stderr
            assert refused.returncode == 1
        wait(lambda: states(lab) == {"draining": addresses}, 15, "the addresses drain")
        fresh = talk(stack, lab, far, socket.AF_INET, "pod")
        assert fresh.second.getpeername()[0] in lab.pod(POD)["addresses"]
        for one in talks.values():
            for a, b in ((one.first, one.second), (one.second, one.first)):
                a.send(b"again")
                assert b.recv(100) == b"again"
        for address in addresses:
            assert evict(lab, address).returncode == 0
        time.sleep(1)  # until the agents have written it
        assert {family: one.reset() for family, one in talks.items()} == dict.fromkeys(
            FAMILIES, True
        )
    release(lab)


def test_an_address_is_free_when_no_node_has_a_connection_of_it_any_more(
    lab: Lab, far: dict[int, socket.socket]
) -> None:
    """Of IPv6 nobody had one: that address goes first."""
    with ExitStack() as stack:
        with manifest(lab, "f-new.yaml", POOL + POLICY):
            wait(covering(lab), 15, "the policy covers the pod")
            talk(stack, lab, far, socket.AF_INET, "pod")
        wait(lambda: states(lab) == {"draining": ["198.51.100.77"]}, 60, "one is free")
    wait(lambda: not states(lab), 60, "its last connection was closed")
    mine = {"198.51.100.77", "2001:db8:100::77"}
    wait(lambda: not mine & {b["address"] for b in lab.table("block")}, 15, "blocks are given back")
    release(lab)


# Backends and pods that are gone

SERVER = """
import socket, threading
def connections():
    with socket.create_server(("::", 5353), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        held = []
        while True:
            held.append(server.accept()[0])
            held[-1].sendall(b"%s")
threading.Thread(target=connections, daemon=True).start()
made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
made.bind(("::", 5353))
while True:
    question, peer = made.recvfrom(100)
    made.sendto(b"%s", peer)
"""
UDP_PORT, TCP_PORT = 53, 54
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: u, namespace: shop}
spec:
  clusterIP: 10.97.1.62
  clusterIPs: [10.97.1.62, "fd97:1::62"]
  ipFamilies: [IPv4, IPv6]
  selector: {app: u}
  ports:
  - {name: u, port: 53, protocol: UDP, targetPort: 5353}
  - {name: t, port: 54, protocol: TCP, targetPort: 5353}
"""
SERVICE_ADDRESSES = ("10.97.1.62", "fd97:1::62")
#: A connected socket that asks twice a second; prints each new answer or error.
ASKER = """
import errno, socket, sys, time
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(0.5)
made.connect((sys.argv[1], 53))
last, end = "", time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        made.send(b"?")
        said = made.recv(100).decode()
    except OSError as error:
        number = error.errno
        if number == errno.EDESTADDRREQ:  # it sent first; why it has no destination is kept
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        said = errno.errorcode.get(number, "silence")
    if said != last:
        print(said, flush=True)
    last = said
    if said == "ECONNABORTED":
        break
    time.sleep(0.2)
"""
#: Connections that only read; prints of each the server's name and how it ended, and first "open".
READER = """
import errno, socket, sys
made = [socket.create_connection((sys.argv[1], 54), timeout=5) for _ in range(20)]
names = [one.recv(100).decode() for one in made]
print("open", flush=True)
seconds = float(sys.argv[2])
for one, name in zip(made, names):
    one.settimeout(seconds)
    try:
        print(name, "the-end" if not one.recv(100) else "more")
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, "silence"))
        if name == "u-1":
            seconds = 0.01
"""


def echo_pod(tmp: Path, number: int) -> str:
    code = tmp / f"u-{number}.py"
    code.write_text(SERVER % (f"u-{number}", f"u-{number}"))
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: u-{number}, namespace: shop, labels: {{app: u}}}}
spec:
  nodeName: east-{number}
  containers: [{{name: c, command: ["{sys.executable}", "{code}"]}}]
"""


def test_what_asks_a_gone_backend_hears_of_it(lab: Lab, tmp_path: Path) -> None:
    """UDP and TCP; the pod's device is down first, so the pod's kernel says no goodbye."""
    client = "east/shop/client-1"
    with ExitStack() as stack:
        stack.enter_context(manifest(lab, "f-u.yaml", SERVICE))
        stack.enter_context(manifest(lab, "f-u1.yaml", echo_pod(tmp_path, 1)))
        with manifest(lab, "f-u2.yaml", echo_pod(tmp_path, 2)):

            def backends() -> int:
                rows = [row for row in lab.table("service") if row["name"] == "u"]
                found = rows[0]["backends"] if rows else []
                return len({one["address"] for one in found if ":" not in one["address"]})

            def talk_to(code: str, address: str, seconds: int) -> subprocess.Popen[str]:
                return lab.start(client, sys.executable, "-c", code, address, seconds)

            wait(lambda: backends() == 2, 15, "both pods are backends")
            wait(
                lambda: lab.python(client, ASKER, "10.97.1.62", 1).split()[0] in ("u-1", "u-2"),
                10,
                "answers come",
            )
            askers = [talk_to(ASKER, SERVICE_ADDRESSES[0], 15) for _ in range(8)]
            readers = [talk_to(READER, address, 15) for address in SERVICE_ADDRESSES]
            for reader in readers:
                assert reader.stdout
                assert reader.stdout.readline() == "open\n"
            lab.output("east/shop/u-2", "ip", "link", "set", "eth0", "down")
        wait(lambda: backends() == 1, 15, "one pod is gone")
        said = [tuple(one.communicate(timeout=40)[0].split()) for one in askers]
        ends = {one[-1] for one in said if one[0] == "u-2"}
        assert {one for one in said if one[0] == "u-1"} == {("u-1",)}
        assert ends == {"ECONNABORTED"}, "whatever a dying pod's kernel says before"
        for reader in readers:
            heard = {tuple(line.split()) for line in reader.communicate(timeout=40)[0].splitlines()}
            assert heard == {("u-1", "silence"), ("u-2", "ECONNABORTED")}
