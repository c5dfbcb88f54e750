"""What other programs take away from a host comes back; nothing leaves for a service's address."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from running import Lab, url, wait

OVERLAY = "mg_vxlan"


def address(row: dict[str, list[str]], family: int) -> str:
    return next(one for one in row["addresses"] if (":" in one) == (family == 6))


@pytest.fixture(params=(4, 6), ids=("IPv4", "IPv6"))
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def service(lab: Lab, family: int) -> str:
    (row,) = (row for row in lab.table("service") if row["cluster"] == "east")
    return address(row, family)


def codes(lab: Lab) -> set[str]:
    return {finding["code"] for finding in lab.json("status")["findings"]}


def device(lab: Lab, host: str) -> dict[str, object]:
    """The overlay's device; empty when there is none."""
    said = lab.exec(host, "ip", "-j", "link", "show", OVERLAY).stdout
    return dict(json.loads(said)[0]) if said.strip() else {}


@pytest.mark.parametrize("host", ["east/shop/client-1", "east-1"])
def test_a_flow_names_the_service_that_was_asked_for(lab: Lab, family: int, host: str) -> None:
    """Of a pod and of the node's own processes, where the node sees their packets: to its own pod.

    So the host asks often enough to get the backend of its node, of the six that there are.
    """
    asked = [url(service(lab, family), 80)] * 60
    lab.output(host, "curl", "-sf", "-m5", "-Z", *asked)

    def named() -> bool:
        return any(
            row["service"] == "shop/web" and row["node"] == "east-1"
            and (":" in row["source"]["address"]) == (family == 6)
            and (row["source"]["identity"] == 1) == (host == "east-1")
            for row in lab.table("flow")
        )  # fmt: skip

    wait(named, 5, "the flow is listed with its service")
    to_pods = [r for r in lab.table("flow") if r["service"] and r["destination"]["port"] != 8080]
    assert to_pods == []


def test_flow_watch_names_it_in_the_rows_of_other_nodes(lab: Lab, family: int) -> None:
    """Only the sender's node knows it; rows wait for the sender's."""
    command = [sys.executable, "-m", "mesh.cli", "flow", "watch", "-o", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=lab.environment
    ) as watching:
        try:
            time.sleep(1)  # it asks all agents at once
            asked = [url(service(lab, family), 80)] * 60
            lab.output("east/shop/client-1", "curl", "-sf", "-m5", "-Z", *asked)
            time.sleep(1)
        finally:
            watching.terminate()
        rows = [json.loads(line) for line in watching.communicate(timeout=10)[0].splitlines()]
    source = address(lab.pod("east/shop/client-1"), family)
    named = [(row["node"], row["service"]) for row in rows if row["source"]["address"] == source]
    assert {service for _, service in named} == {"shop/web"}
    assert {"east-1", "east-2"} <= {node for node, _ in named}


@pytest.mark.parametrize("host", ["east/shop/client-1", "east-1"])
def test_a_port_that_a_service_does_not_have_is_refused(lab: Lab, family: int, host: str) -> None:
    asked = lab.exec(host, "curl", "-s", "-m5", url(service(lab, family), 81))
    assert asked.returncode == 7  # CURLE_COULDNT_CONNECT, not 28: a time-out


@pytest.mark.parametrize("host", ["east/shop/client-1", "east-1"])
def test_a_ping_of_a_service_is_a_named_drop(lab: Lab, family: int, host: str) -> None:
    """By a raw socket, which no socket call of ours sees; of a pod and of the node itself."""
    ping = (
        "import os, socket, sys\n"
        "six = ':' in sys.argv[1]\n"
        "one = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW,"
        " 58 if six else 1)\n"
        "one.sendto(bytes([128 if six else 8, 0, 0 if six else 0xf7, 0 if six else 0xff,"
        " 0, 0, 0, 0]), (sys.argv[1], 0))\n"
    )

    def drops() -> int:
        return sum(
            row["packets"]
            for row in lab.table("drop")
            if (row["number"], row["node"]) == (158, "east-1")
        )

    before = drops()
    lab.python(host, ping, service(lab, family))
    wait(lambda: drops() > before, 5, "the drop is counted")


def test_a_route_to_a_pod_that_is_deleted_comes_back(lab: Lab, family: int) -> None:
    pod = address(lab.pod("east/shop/web-1"), family)
    show = ("ip", f"-{family}", "route", "show", pod)
    assert lab.output("east-1", *show)
    lab.output("east-1", "ip", f"-{family}", "route", "del", pod)
    wait(lambda: bool(lab.output("east-1", *show)), 5, "the route is back")
    lab.output("east-1", "curl", "-sf", "-m5", url(pod))


def test_the_overlays_device_comes_back_and_is_named(lab: Lab) -> None:
    """Set down, it is set up again; deleted, it is made anew."""
    west = address(lab.pod("west/shop/web-1"), 4)
    lab.output("east-1", "ip", "link", "set", OVERLAY, "down")
    wait(lambda: "UP" in str(device(lab, "east-1").get("flags")), 5, "it is up")
    wait(lambda: "M165" in codes(lab), 5, "the finding is shown")
    before = device(lab, "east-1")["ifindex"]
    lab.output("east-1", "ip", "link", "del", OVERLAY)
    wait(
        lambda: (
            device(lab, "east-1").get("ifindex", before) != before
            and "UP" in str(device(lab, "east-1").get("flags"))
        ),
        15,
        "there is a new one",
    )
    wait(lambda: "M165" in codes(lab), 10, "the finding is shown by the agent that began anew")
    lab.output("east/shop/client-1", "curl", "-sf", "-m5", url(west))
    lab.kill("east-1/agent")  # the finding ends with a minute, or with the process
    lab.revive("east-1/agent")
    wait(lab.healthy, 20, "all is well")
