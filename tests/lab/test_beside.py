"""A cluster beside another CNI, the reference plugin bridge, and a whole one reach each other.

::

    east-1, east-2 (bridge cni0, masquerade of its own; overlay on 8473) ─┐
    west-1, west-2 (whole; overlay on 8472) ──────────────────────────────┼─ router
    legacy ── firewall ───────────────────────────────────────────────────┘
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from leaking import count_a_leak, forget_leaks, leaked
from running import Lab, url, wait

from mesh.host.drained import Drain, Drained, answered, ask

ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as made:
    made.sendall(b"question\\n")
    print(made.getsockname()[1], made.recv(100))
"""


@pytest.fixture(scope="module")
def lab(beside_lab: Lab) -> Lab:
    return beside_lab


@pytest.fixture(params=(0, 1), ids=("IPv4", "IPv6"))
def number(request: pytest.FixtureRequest) -> int:
    """Which of the addresses."""
    return int(request.param)


def address(lab: Lab, pod: str, number: int) -> str:
    return str(lab.pod(pod)["addresses"][number])


def asked(lab: Lab, pod: str, number: int) -> tuple[str, ...]:
    """Who the legacy server has seen after the pod has asked; nothing when it was refused."""
    before = len(lab.legacy_log())
    legacy = ("192.0.2.10", "2001:db8:2::10")[number]
    answer = lab.exec(pod, sys.executable, "-c", ASK, legacy, 7007)
    assert (answer.returncode == 0) == (len(lab.legacy_log()) > before), answer.stderr
    return tuple(row[2] for row in lab.legacy_log()[before:])


def test_a_covered_pod_has_the_egress_address(lab: Lab, number: int) -> None:
    """On the gateway and on another node; the firewall lets nothing else in."""
    egress = ("198.51.100.10", "2001:db8:100::10")[number]
    for pod in ("east/shop/client-1", "east/shop/client-2"):
        assert asked(lab, pod, number) == (egress,)
    for pod in ("east/shop/web-1", "east/shop/web-2"):
        assert asked(lab, pod, number) == ()


@pytest.mark.parametrize(
    ("pod", "to"),
    [
        ("east/shop/client-1", "west/shop/web-1"),
        ("east/shop/client-2", "west/shop/web-2"),
        ("west/shop/client-1", "east/shop/web-1"),
        ("west/shop/client-2", "east/shop/web-2"),
        ("east/shop/client-1", "east/shop/web-1"),
        ("east/shop/client-1", "east/shop/web-2"),
    ],
)
def test_pods_reach_each_other(lab: Lab, pod: str, to: str, number: int) -> None:
    """Of two clusters by the overlay, each on its port; of one cluster as the bridge has it."""
    said = lab.output(
        pod, "curl", "-s", "-m5", "-o", "/dev/null", "-w", "%header{x-pod}",
        url(address(lab, to, number)),
    )  # fmt: skip
    assert said == to


def test_the_detector_counts_what_the_bridge_has_translated(lab: Lab, number: int) -> None:
    """The other CNI gives it the node's address: netfilter's entry names the pod."""
    assert leaked(lab) == {}
    family = (socket.AF_INET, socket.AF_INET6)[number]
    try:
        count_a_leak(lab, "east-1", "east/shop/client-1", family, beside=True)
        last = leaked(lab)["east-1"]["last"]["source"]
        assert last in ("10.99.0.11", "fd99::11"), "not the pod's own"
    finally:
        forget_leaks(lab, "east-1")
    assert leaked(lab) == {}


def links(lab: Lab, host: str) -> set[str]:
    return {row["ifname"] for row in json.loads(lab.output(host, "ip", "-j", "link"))}


def routes(lab: Lab, host: str) -> list[str]:
    return [lab.output(host, "ip", family, "route") for family in ("-4", "-6")]


def pins(lab: Lab) -> Path:
    return Path("/sys/fs/bpf") / lab.environment["MESHGATE_LAB"] / "east-1"


def stop(lab: Lab, name: str) -> None:
    os.kill(lab.processes()[name], signal.SIGKILL)
    wait(lambda: name not in lab.processes(), 10, f"{name} ended")


def test_uninstalled_and_installed_it_loses_no_packet_of_others(lab: Lab) -> None:
    """The node is then as the bridge has it: no link, route or pin of ours is left."""
    to = [address(lab, "east/shop/web-2", number) for number in (0, 1)]
    pings = [
        lab.start("east/shop/client-1", "ping", "-q", "-i", "0.02", "-w", "60", one) for one in to
    ]
    config = Path(lab.environment["MESHGATE_RUN"]) / "east-1/agent.yaml"
    stop(lab, "east-1/agent")
    lab.output("east-1", sys.executable, "-m", "mesh.cli", "host", "restore", "--config", config)
    left = links(lab, "east-1")
    assert "mg_vxlan" not in left
    assert not [name for name in left if name.startswith("mgp")]
    assert not [one for one in routes(lab, "east-1") if "mg_vxlan" in one or "proto 77" in one]
    assert not pins(lab).exists()
    assert asked(lab, "east/shop/client-1", 0) == (), "with its node's address it is refused"
    pins(lab).mkdir()
    lab.revive("east-1/agent")
    wait(lambda: asked(lab, "east/shop/client-1", 0) != (), 30, "the policy covers the pod again")
    assert links(lab, "east-1") == left | {"mg_vxlan"}
    for ping in pings:
        ping.send_signal(signal.SIGINT)
        said = ping.communicate(timeout=90)[0]
        assert " 0% packet loss" in said, said


def test_a_killed_agent_comes_back_to_what_is_there(lab: Lab) -> None:
    """It loads nothing, and takes no pod's row away."""
    stop(lab, "east-1/agent")
    assert asked(lab, "east/shop/client-1", 1) == ("2001:db8:100::10",)
    lab.revive("east-1/agent")
    wait(lab.healthy, 60, "the lab is healthy")
    log = Path(lab.environment["MESHGATE_RUN"]) / "east-1/agent.log"
    assert "adopted=True" in log.read_text()
    assert asked(lab, "east/shop/client-1", 1) == ("2001:db8:100::10",)


STREAM = """
import socket, sys, time
made, answers = socket.create_connection((sys.argv[1], 7007), 5), 0
made.settimeout(3)
try:
    while True:
        made.sendall(b"question\\n")
        answers += len(made.recv(100))
        print(answers, flush=True)
        time.sleep(0.2)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


def test_a_drain_lets_connections_go_on_and_resets_what_is_left(lab: Lab) -> None:
    """New connections leave as the other CNI has them, which the firewall refuses here."""
    run = Path(lab.environment["MESHGATE_RUN"])
    folders = [
        Path(yaml.safe_load((run / node / "agent.yaml").read_text())["stateDir"])
        for node in ("east-1", "east-2")
    ]
    streams = [
        lab.start("east/shop/client-1", sys.executable, "-uc", STREAM, one)
        for one in ("192.0.2.10", "2001:db8:2::10")
    ]
    for one in streams:
        assert one.stdout
        assert one.stdout.readline().strip() == "9"
    until = time.time() + 12
    for folder in folders:
        ask(folder, Drain("1", until))
    wait(lambda: all(answered(one) for one in folders), 5, "both nodes drain")
    for number in (0, 1):
        assert asked(lab, "east/shop/client-1", number) == ()
    wait(lambda: answered(folders[0]) == Drained("1", 2, done=False), 5, "two connections are left")
    assert answered(folders[1]) == Drained("1", 0, done=True), "it is the gateway, and has none"
    assert time.time() < until
    ended = [one.communicate(timeout=30)[0].split() for one in streams]
    assert time.time() >= until
    for lines in ended:
        assert lines[-1] == "ConnectionResetError"
        assert len(lines) > 25, "they went on until then"
    wait(lambda: bool((said := answered(folders[0])) and said.done), 10, "the agent may end")
    for folder in folders:
        ask(folder, None)
    wait(lambda: asked(lab, "east/shop/client-1", 0) != (), 30, "the policy covers the pod again")
    assert asked(lab, "east/shop/client-1", 1) == ("2001:db8:100::10",)


@pytest.fixture(autouse=True)
def _no_drops(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing of anybody is dropped on the nodes beside.

    But other nodes go on asking a node by echoes of the overlay while it is installed (D112). It
    does not know them before it has read the store. What a drain resets is dropped.
    """
    expected = {"Unknown sender"}
    if request.node.name.startswith("test_a_drain"):
        expected.add("No egress gateway")

    def drops() -> dict[str, int]:
        rows = [row for row in lab.table("drop") if row["node"].startswith("east")]
        rows = [row for row in rows if row["reason"] not in expected]
        return {f"{row['node']} {row['reason']}": row["packets"] for row in rows}

    before = drops()
    yield
    grown = {key: count for key, count in drops().items() if count > before.get(key, 0)}
    assert grown == {}
