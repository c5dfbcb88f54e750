"""A node that is dead for good: what it had stays with it until its Node object is deleted.

Nobody can know from outside whether its datapath still sends (D167, D215), so nothing that it says
no more of lapses by time. The Node object is the operator's word: with it go blocks and the drains
that waited for the node.

::

    web-3 (east-3, dead) ── 198.51.100.78 drains, blocks of east-3 ── Node east-3 deleted: free
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Lab, egress, wait
from test_ended import manifest

from gateway.blocks import NOUN

DEAD = "east-3"
POD = f"east/shop/web-{DEAD[-1]}"
ADDRESSES = ("198.51.100.78", "2001:db8:100::78")
MANIFEST = f"""
apiVersion: meshgate.io/v1alpha1
kind: EgressPool
metadata: {{name: dead}}
spec: {{cidrs: [{ADDRESSES[0]}/32, "{ADDRESSES[1]}/128"]}}
---
apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {{name: dead}}
spec:
  selectors: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
  destinationCIDRs: [192.0.2.0/24, "2001:db8:2::/64"]
  pool: dead
  gateways: {{nodeSelector: {{matchLabels: {{role: gateway}}}}}}
"""
#: Nodes count ports every 10 s, and say that none is in use from the second count on.
COUNTED_S = 30


def state(lab: Lab) -> list[str]:
    return [row["state"] for row in lab.table("egress") if row["policy"] == "dead"]


def nodes_with_blocks(lab: Lab) -> set[str]:
    """Who has blocks of the addresses."""
    return {row["node"] for row in lab.table("block") if row["address"] in ADDRESSES}


@pytest.fixture
def dead(lab: Lab) -> Iterator[Path]:
    """A node that dies while its pod is covered; then the policy is deleted. It lives afterwards.

    The path is that of the Node objects.
    """
    nodes = Path(lab.shown["manifests"]["east"]) / "nodes.yaml"
    before = nodes.read_text()
    with manifest(lab, "dead.yaml", MANIFEST):
        wait(lambda: state(lab) == ["active"], 20, "the policy has its addresses")
        wait(lambda: DEAD in nodes_with_blocks(lab), 20, f"{DEAD} has blocks of them")
        lab.kill(f"{DEAD}/agent")
    try:
        yield nodes
    finally:
        nodes.write_text(before)
        if f"{DEAD}/agent" not in lab.processes():
            lab.revive(f"{DEAD}/agent")
        wait(lambda: not state(lab), 90, "the addresses are free")
        wait(lambda: not egress(lab, "release", "dead").returncode, 90, "its feed is released")
        lab.settle()


def without(text: str, name: str) -> str:
    """The Node objects but for one."""
    documents: list[Any] = [one for one in yaml.safe_load_all(text) if one]
    return yaml.safe_dump_all(one for one in documents if one["metadata"]["name"] != name)


def test_what_a_dead_node_had_is_free_when_its_node_object_is_deleted(lab: Lab, dead: Path) -> None:
    wait(lambda: state(lab) == ["draining"], 20, "the addresses drain")
    time.sleep(COUNTED_S)
    assert state(lab) == ["draining"], f"{DEAD} may still send with them"
    assert DEAD in nodes_with_blocks(lab)
    others = {row["node"]: row for row in lab.table(NOUN) if row["cluster"] == "east"}.keys()
    dead.write_text(without(dead.read_text(), DEAD))
    wait(lambda: DEAD not in nodes_with_blocks(lab), 30, "its blocks rest")
    wait(lambda: not state(lab), COUNTED_S, "the addresses are free")
    left = {row["node"] for row in lab.table(NOUN) if row["cluster"] == "east"}
    assert left == others - {DEAD}, "nobody else has lost any"
