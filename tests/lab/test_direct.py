"""The direct path of egress: packets leave by the pod's own node while the fabric carries them.

::

    client-1 (east-1) ── router ── firewall ── legacy      outwards
                      └─ east-2, east-3 ──┘                 back, and outwards while it is closed

With ``MESHGATE_SOAK=1`` the router's port for east-1 begins to check sources, as strict uRPF does,
and ends it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import SOAK, Lab, report, wait

from gateway.direct import ANSWER_S, MISSED, ROUND_S
from mesh.core.files import replace_file

NODE, CLIENT = "east-1", "east/shop/client-1"
#: From the first packet that the fabric drops until packets go by the gateways.
GAP_S = MISSED * ROUND_S + ANSWER_S


@pytest.fixture
def direct(lab: Lab) -> Iterator[Lab]:
    """East's policy says ``outbound: direct``."""
    path = Path(lab.shown["manifests"]["east"]) / "egress.yaml"
    before = path.read_text()
    documents = list(yaml.safe_load_all(before))
    for one in documents:
        if one["kind"] == "EgressPolicy":
            one["spec"]["outbound"] = "direct"
    lab.settle()
    replace_file(path, yaml.safe_dump_all(documents), mode=0o644)
    try:
        yield lab
    finally:
        replace_file(path, before, mode=0o644)
        urpf(lab, "off")
        wait(lambda: not lab.table("direct-path"), 10, "packets go by the gateways again")


def urpf(lab: Lab, state: str) -> None:
    answer = lab.run("lab", "urpf", NODE, state)
    assert answer.returncode == 0, answer.stderr


def checked(lab: Lab) -> int:
    """Packets that the router's port for the node has dropped."""
    words = ("nft", "-j", "list", "table", "netdev", "mg_urpf_east_1")
    found = json.loads(lab.output("router", *words))["nftables"]
    exprs = [one for each in found if "rule" in each for one in each["rule"]["expr"]]
    return sum(one["counter"]["packets"] for one in exprs if "counter" in one)


def paths(lab: Lab) -> dict[str, str]:
    """By which way packets of each egress address leave the node."""
    return {row["address"]: row["path"] for row in lab.table("direct-path") if row["node"] == NODE}


def all_go(lab: Lab, path: str) -> bool:
    found = paths(lab)
    return len(found) == 2 and set(found.values()) == {path}


def longest(found: dict[str, Any]) -> float:
    return float(found["longest_gap_ms"]) / 1000


def _closed(lab: Lab) -> bool:
    return any(one["code"] == "M275" for one in lab.json("status")["findings"])


if SOAK:

    def test_a_source_check_closes_the_direct_path_and_costs_one_gap(direct: Lab) -> None:
        lab, legacy = direct, direct.shown["legacy"]
        wait(lambda: all_go(lab, "direct"), 40, "the direct path is proven")
        seconds = 90
        lanes = {
            (mode, address): lab.probe(CLIENT, mode, address, legacy[mode], seconds)
            for address in legacy["addresses"]
            for mode in ("udp", "tcp")
        }
        try:
            time.sleep(5)
            urpf(lab, "on")
            closed = time.monotonic()
            wait(lambda: all_go(lab, "gateway"), 30, "it is closed")
            assert checked(lab) > 0, "packets have left by the node's own port"
            found = [one for one in lab.json("status")["findings"] if one["code"] == "M275"]
            assert {one["field"] for one in found} == {
                f"direct {address}" for address in paths(lab)
            }
            assert all(NODE in one["text"] and "go by the gateways" in one["text"] for one in found)
            before = checked(lab)
            time.sleep(3)
            rate = (checked(lab) - before) / 3
            assert rate < 5, "echoes alone still go that way"
            urpf(lab, "off")
            wait(lambda: all_go(lab, "direct"), 40, "it is proven again")
            opened = time.monotonic() - closed
        finally:
            reports = {name: report(lane) for name, lane in lanes.items()}
        for (mode, address), seen in reports.items():
            assert not seen.get("reset"), (mode, address, seen)
            if mode == "udp":
                gap = longest(seen)
                print(f"{address}: one gap of {gap:.1f} s, again direct after {opened:.0f} s")  # noqa: T201
                assert 0 < gap <= GAP_S + 3, seen
                assert seen["missing"] <= seen["sent"] * (gap + 0.5) / seconds, "it is one gap"
        wait(lambda: not _closed(lab), 15, "the finding ends")


def test_without_its_agent_a_node_goes_back_to_the_gateways_and_loses_nothing(direct: Lab) -> None:
    lab, legacy = direct, direct.shown["legacy"]
    wait(lambda: all_go(lab, "direct"), 40, "the direct path is proven")
    lanes = [
        lab.probe(CLIENT, "udp", address, legacy["udp"], 16) for address in legacy["addresses"]
    ]
    time.sleep(2)
    lab.kill(f"{NODE}/agent")
    try:
        for lane in lanes:
            seen = report(lane)
            assert (seen["missing"], seen["duplicates"]) == (0, 0), seen
    finally:
        lab.revive(f"{NODE}/agent")
