"""The speaker as a process: manifests and a real etcd in, FRR's table out. Topology: frr_router.py.

etcd listens on the loopback of the node's namespace, so that ending it is ending the network to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgp.exabgp.engine import Engine
from mesh.observe.tables import Process, ask
from tests.interop.speaker.driver import USER
from tests.interop.speaker.frr_router import NODE, Router, held, holds, run, stale, until, whole

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ETCD = "http://127.0.0.1:2379"
POD4 = ["", "10.1.0.0/24", "10.99.0.11"]
POD6 = ["", "fd01::/64", "fd99::11"]
LOCATOR = ["", "fcbb:bb01:1::/48", "fd99::11"]
EGRESS4 = ["", "198.51.100.10/32", "10.99.0.11"]
EGRESS6 = ["", "2001:db8:100::10/128", "fd99::11"]
CLAIMED = [POD4, POD6, LOCATOR]
ALL = [*CLAIMED, EGRESS4, EGRESS6]

API = "meshgate.io/v1alpha1"
PEER_SPEC = {
    "nodeSelector": {},
    "address": "10.99.0.1",
    "asn": 65000,
    "localASN": 65101,
    "advertise": ["podCIDRs", "egressIPs", "srv6Locators"],
    "holdSeconds": 9,
    "gracefulRestartSeconds": 120,
}
EGRESS_SPEC = {
    "selectors": [{"podSelector": {}}],
    "destinationCIDRs": ["192.0.2.0/24"],
    "addresses": ["198.51.100.10", "2001:db8:100::10"],
    "gateways": {"nodeSelector": {"matchLabels": {"role": "gateway"}}},
}


def node_document(name: str, *addresses: str, **labels: str) -> dict[str, Any]:
    rows = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"addresses": rows},
    }


def own_document(kind: str, name: str, spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


class Etcd:
    """A real etcd in the node's namespace; its data survives ``stop``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["etcd", "--data-dir", str(self.directory / "data")]
        words += ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
        words += ["--listen-peer-urls", "http://127.0.0.1:2380"]
        with (self.directory / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", NODE, *words], stdout=log, stderr=log
            )
        until(self.answers, "etcd answers")

    def answers(self) -> bool:
        return not subprocess.run(
            self._ctl("get", "x"), capture_output=True, check=False
        ).returncode

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def put(self, key: str, value: Any) -> None:
        run(*self._ctl("put", f"meshgate/v1/east/{key}", json.dumps(value)))

    def delete(self, key: str) -> None:
        run(*self._ctl("del", f"meshgate/v1/east/{key}"))

    def _ctl(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", NODE, "env", "ETCDCTL_API=3", "etcdctl", *words]


class Node:
    """A speaker process with its manifests."""

    def __init__(self, directory: Path) -> None:
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self.engine = Engine(directory / "bgp", USER)
        self.config = directory / "speaker.yaml"
        self.socket = directory / "speaker.sock"
        self.log = directory / "speaker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.write("node", node_document("east-1", "10.99.0.11", "fd99::11", role="gateway"))
        self.write("peer", own_document("BGPPeer", "router", PEER_SPEC))
        self.write("egress", own_document("EgressPolicy", "erp", EGRESS_SPEC))
        settings = {
            "cluster": {"name": "east", "id": 1},
            "node": "east-1",
            "manifests": str(self.manifests),
            "etcd": {"endpoints": [ETCD]},
            "runDir": str(self.engine.run_dir),
            "socket": str(self.socket),
            "routerID": "10.99.0.11",
            "exabgpUser": str(USER.uid),
        }
        self.config.write_text(yaml.safe_dump(settings))

    def write(self, name: str, document: Any) -> None:
        (self.manifests / f"{name}.yaml").write_text(yaml.safe_dump(document))

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    NODE,
                    sys.executable,
                    "-m",
                    "mesh.cli",
                    "speaker",
                    "--config",
                    str(self.config),
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=10)
        self.process = None
        return status

    def status(self) -> dict[str, Any]:
        return dict(ask([Process("east-1", "speaker", self.socket)], ["peer", "route"])[0].status)

    def rows(self, noun: str) -> list[dict[str, Any]]:
        answer = ask([Process("east-1", "speaker", self.socket)], [noun])[0]
        return [dict(row) for row in answer.rows.get(noun, ())]

    def finding(self, code: str) -> str:
        found = self.status().get("findings", [])
        return next((str(one) for one in found if one["code"] == code), "")

    def ready(self) -> bool:
        return bool(self.status().get("ready"))

    def stop(self, router: Router) -> None:
        if self.process:
            self.kill()
        pid = self.engine.pid()
        if pid:
            os.kill(pid, signal.SIGSTOP)
        router.vty.ask("clear bgp *")
        until(lambda: holds(router), "the router has forgotten the test's routes")
        if pid:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def etcd(router: Router, tmp_path: Path) -> Iterator[Etcd]:
    assert router.vty
    server = Etcd(tmp_path)
    server.start()
    server.put("podcidr/10.1.0.0_16_24/number/0", {"owner": "east-1", "released": 0})
    server.put("podcidr/10.1.0.0_16_24/number/1", {"owner": "east-2", "released": 0})
    server.put("podcidr/fd01::_48_64/number/0", {"owner": "east-1", "released": 0})
    server.put("locator/fcbb:bb01::_32_48/number/1", {"owner": "east-1", "released": 0})
    server.put("synced", {"store": "test"})
    yield server
    server.stop()


@pytest.fixture
def node(router: Router, etcd: Etcd, tmp_path: Path) -> Iterator[Node]:
    assert etcd.process
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.stop(router)


def up(node: Node, router: Router) -> None:
    node.start()
    until(node.ready, "the speaker is ready")
    until(lambda: holds(router, *ALL), "the router holds exactly the node's routes")


def test_pod_cidrs_locator_and_egress_addresses_are_announced(node: Node, router: Router) -> None:
    up(node, router)
    row = {
        "node": "east-1", "address": "10.99.0.1", "asn": 65000, "state": "established",
        "reason": "", "received": 0, "advertised": len(ALL), "bfd": "-",
        "families": ["ipv4 unicast", "ipv6 unicast"],
    }  # fmt: skip
    assert [{key: one[key] for key in row} for one in node.rows("peer")] == [row]
    assert {route["prefix"] for route in node.rows("route")} == {prefix for _, prefix, _ in ALL}
    assert all(route["announced"] for route in node.rows("route"))
    assert node.status()["findings"] == []


def test_what_disappears_is_withdrawn(node: Node, etcd: Etcd, router: Router) -> None:
    up(node, router)
    etcd.delete("podcidr/fd01::_48_64/number/0")
    until(lambda: holds(router, POD4, LOCATOR, EGRESS4, EGRESS6), "a released claim")
    node.write("node", node_document("east-1", "10.99.0.11", "fd99::11"))
    until(lambda: holds(router, POD4, LOCATOR), "no gateway any more")
    node.write("peer", own_document("BGPPeer", "router", {**PEER_SPEC, "advertise": ["podCIDRs"]}))
    until(lambda: holds(router, POD4), "the peer advertises less")
    (node.manifests / "peer.yaml").unlink()
    until(lambda: holds(router), "the peer is gone")
    assert node.rows("peer") == []


def test_a_node_without_its_object_announces_nothing_and_keeps_its_session(
    node: Node, router: Router
) -> None:
    """The object was deleted, and everything else was read: that is a fact."""
    up(node, router)
    mine = node.manifests / "node.yaml"
    text = mine.read_text()
    mine.unlink()
    until(lambda: holds(router), "everything is withdrawn")
    until(lambda: node.finding("B214"), "the missing object is a finding")
    assert [peer["state"] for peer in node.rows("peer")] == ["established"]
    node.kill()
    node.start()
    until(lambda: node.finding("B214"), "the next speaker says the same")
    mine.write_text(text)
    until(lambda: holds(router, *ALL), "the routes are back")


def test_an_unreadable_folder_changes_nothing(node: Node, router: Router, deleted: Any) -> None:
    up(node, router)
    node.manifests.rename(node.manifests.with_name("away"))
    until(lambda: node.finding("M101"), "the folder is a finding")
    assert held(router) == whole(*ALL)
    node.kill()
    node.start()
    until(lambda: node.finding("M101"), "the next speaker does not read it either")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_a_killed_speaker_is_adopted_from_with_etcd_away(
    node: Node, etcd: Etcd, router: Router, deleted: Any
) -> None:
    up(node, router)
    exabgp = node.status()["exabgp"]
    node.kill()
    etcd.stop()
    node.start()
    until(lambda: node.finding("B209"), "etcd is a finding")
    until(lambda: node.rows("peer")[0]["state"] == "established", "the session was adopted")
    assert node.status()["exabgp"] == exabgp
    assert not node.ready()
    assert held(router) == whole(*ALL)
    etcd.start()
    until(node.ready, "synced")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_speaker_and_exabgp_killed_with_etcd_away_lose_nothing(
    node: Node, etcd: Etcd, router: Router, deleted: Any
) -> None:
    up(node, router)
    old = node.status()["exabgp"]
    node.kill()
    os.kill(old, signal.SIGKILL)
    etcd.stop()
    until(lambda: stale(router), "the router keeps the routes as stale")
    node.start()
    until(lambda: node.engine.pid() not in (old, None), "a new ExaBGP")
    until(lambda: not stale(router), "the last known routes are announced")
    assert held(router) == whole(*ALL)
    assert not node.ready()
    etcd.start()
    until(node.ready, "End-of-RIB is out")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_exabgp_killed_under_a_running_speaker_loses_nothing(
    node: Node, router: Router, deleted: Any
) -> None:
    up(node, router)
    old = node.status()["exabgp"]
    os.kill(old, signal.SIGKILL)
    until(lambda: node.engine.pid() not in (old, None), "a new ExaBGP")
    until(node.ready, "everything is announced, End-of-RIB included")
    until(lambda: not stale(router), "no route is stale")
    assert held(router) == whole(*ALL)
    assert deleted() == []


def test_a_stopped_speaker_ends_cleanly_and_leaves_exabgp(node: Node, router: Router) -> None:
    up(node, router)
    exabgp = node.status()["exabgp"]
    assert node.kill(signal.SIGTERM) == 0
    assert node.engine.pid() == exabgp
    assert held(router) == whole(*ALL)


def test_peers_that_cannot_work_are_findings(node: Node, router: Router) -> None:
    labels = {"matchLabels": {"no": "such"}}
    node.write("a", own_document("BGPPeer", "nowhere", {**PEER_SPEC, "nodeSelector": labels}))
    node.write("b", own_document("BGPPeer", "twice", PEER_SPEC))
    other = {**PEER_SPEC, "address": "10.99.0.77"}
    node.write("c", own_document("BGPPeer", "away", other))
    node.start()
    until(lambda: "selects no node" in node.finding("B202"), "a peer without nodes")
    until(lambda: "has the address 10.99.0.1" in node.finding("B207"), "one address twice")
    until(lambda: "10.99.0.77 is not reachable" in node.finding("B201"), "a router that is away")
    until(lambda: holds(router, *ALL), "the good peer is not disturbed")


AGAIN = ["router bgp 65000", "no neighbor 10.99.0.11 shutdown"]


def reason(node: Node) -> str:
    return str(node.rows("peer")[0]["reason"])


def test_the_router_s_reason_stays_until_the_session_is_up(node: Node, router: Router) -> None:
    """Its next words, that it does not take us back, are added to it."""
    up(node, router)
    shut = "neighbor 10.99.0.11 shutdown message maintenance until 18:00"
    router.vty.configure("router bgp 65000", shut)
    try:
        until(lambda: "since then: 10.99.0.1 closes the connection" in reason(node), "refused")
        assert 'administrative shutdown) (6/2): "maintenance until 18:00"' in reason(node)
        assert "maintenance until 18:00" in node.finding("B201")
        node.kill()
        node.start()
        until(lambda: node.rows("peer") and "maintenance" in reason(node), "the next speaker")
    finally:
        router.vty.configure(*AGAIN)
    until(lambda: reason(node) == "", "the session is up again")


def test_a_maximum_of_prefixes_stays_the_reason(node: Node, router: Router) -> None:
    up(node, router)
    family = ["router bgp 65000", "address-family ipv4 unicast"]
    router.vty.configure(*family, "neighbor 10.99.0.11 maximum-prefix 1")
    try:
        until(lambda: "since then" in reason(node), "the next connection is refused")
        assert "(maximum reached): it takes 1 of ipv4 unicast (6/1)" in reason(node)
    finally:
        router.vty.configure(*family, "no neighbor 10.99.0.11 maximum-prefix 1")
        router.vty.ask("clear bgp 10.99.0.11")
    until(lambda: reason(node) == "", "the session is up again")


def test_a_password_of_the_router_alone_is_named(node: Node, router: Router) -> None:
    """It has reset the session; then our SYNs get no answer."""
    up(node, router)
    router.vty.configure("router bgp 65000", "neighbor 10.99.0.11 password secret")
    try:
        until(lambda: "TCP MD5 password that we do not have" in reason(node), "a hint")
        assert "Errno" not in reason(node)
    finally:
        router.vty.configure("router bgp 65000", "no neighbor 10.99.0.11 password")
    until(lambda: reason(node) == "", "the session is up again")


def test_another_as_than_expected_is_named(node: Node, router: Router) -> None:
    up(node, router)
    node.write("peer", own_document("BGPPeer", "router", {**PEER_SPEC, "asn": 65009}))
    until(lambda: "the router is 65000, the BGPPeer says 65009" in reason(node), "the AS")
    node.write("peer", own_document("BGPPeer", "router", PEER_SPEC))
    until(lambda: node.rows("peer") and reason(node) == "", "the session is up again")


def asked(node: Node, *words: str) -> Any:
    """The answer of ``meshgate peer ...`` about the session."""
    said = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "peer", *words, "-o", "json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MESHGATE_RUN": str(node.socket.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(said.stdout)


def test_a_session_and_its_routes_are_shown_and_what_is_none_says_why(
    node: Node, router: Router
) -> None:
    network = "network 20.0.1.0/24"
    router.vty.configure("router bgp 65000", "address-family ipv4 unicast", network)
    try:
        node.start()
        until(node.ready, "the speaker is ready")
        until(lambda: [row["received"] for row in node.rows("peer")] == [1], "a route is received")
        (row,) = asked(node, "show", "10.99.0.1")
        assert (row["name"], row["state"], row["routerID"]) == (
            "router",
            "established",
            "10.99.0.1",
        )
        assert row["received"] == {"ipv4 unicast": 1}
        assert row["mismatches"] == []
        (row,) = asked(node, "routes", "router", "--received")
        assert (row["prefix"], row["asPath"]) == ("20.0.1.0/24", [65000])
        rows = asked(node, "routes", "10.99.0.1", "--advertised")
        assert {row["prefix"] for row in rows} == {prefix for _, prefix, _ in ALL}
        assert {row["state"] for row in rows} <= {"sent", "echoed"}
        why = "--advertised", "--why-not"
        (row,) = asked(node, "routes", "10.99.0.1", *why, "10.7.0.0/16")
        assert "node east-1 has nothing to announce of this prefix" in row["reason"]
        spec = {**PEER_SPEC, "advertise": ["podCIDRs"]}
        node.write("peer", own_document("BGPPeer", "router", spec))
        until(lambda: len(asked(node, "routes", "router", "--advertised")) == 2, "less is sent")
        (row,) = asked(node, "routes", "router", *why, EGRESS4[1])
        assert row["reason"] == "spec.advertise of BGPPeer router does not have egressIPs"
        (row,) = asked(node, "routes", "router", "--received", "--why-not", "20.9.0.0/16")
        assert row["reason"] == "the router 10.99.0.1 has not sent it"
    finally:
        router.vty.configure("router bgp 65000", "address-family ipv4 unicast", f"no {network}")
