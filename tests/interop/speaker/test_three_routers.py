"""One set of routes for all routers of a range, exactly, on FRR, GoBGP and BIRD (members.py)."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.interop.speaker.frr_router import Router, until
from tests.interop.speaker.members import BIRD, FRR, GOBGP, Table, dialling
from tests.interop.speaker.node import Node

pytestmark = pytest.mark.slow

NODE_, RANGE = "10.99.0.11", "10.99.0.0/28"
CHANGES = 200 if os.environ.get("MESHGATE_SOAK") else 15
RANGED = {"address": RANGE, "local": NODE_, "passive": True}
COMMUNITIES = ["65101:1", "65101:2", "no-export"]
#: Nobody is there: a session that comes and goes reloads ExaBGP's configuration.
AWAY = {"address": "10.99.0.77", "local": NODE_}


def attributes(choice: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"prepend": choice.choice((0, 0, 2))}
    made["communities"] = sorted(choice.sample(COMMUNITIES, choice.choice((0, 1, 3))))
    made["large"] = sorted(choice.sample(["65101:1:1", "65101:2:2"], choice.choice((0, 2))))
    if choice.random() < 0.5:
        made["med"] = choice.randrange(1, 5)
    return made


def expected(rows: dict[str, dict[str, Any]]) -> Table:
    return {
        prefix: (
            one.get("med", 0),
            tuple(one["communities"]),
            tuple(one["large"]),
            1 + one["prepend"],
        )
        for prefix, one in rows.items()
    }


def test_random_changes_arrive_at_three_routers_of_a_range(
    node: Node, router: Router, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    choice = random.Random(seed)
    prefixes = [f"10.1.{number}.0/24" for number in range(12)]
    rows: dict[str, dict[str, Any]] = {}
    before = router.vty.peer(NODE_).get("connectionsEstablished", 0)
    with dialling(router, NODE_, tmp_path) as tables:
        node.desire(peers=[RANGED])
        node.start()
        for number in range(CHANGES):
            for prefix in choice.sample(prefixes, choice.randrange(1, 8)):
                if choice.random() < 0.4:
                    rows.pop(prefix, None)
                else:
                    rows[prefix] = attributes(choice)
            routes = [[RANGE, prefix, NODE_, one] for prefix, one in rows.items()]
            node.desire(*routes, peers=[RANGED, AWAY] if number % 5 == 4 else [RANGED])
            for name, table in tables.items():
                where = f"change {number} of seed {seed} on {name}: {expected(rows)}"
                until(lambda t=table: t() == expected(rows), where)
        states = {peer: state[0] for peer, state in node.said()["states"].items()}
        assert {FRR, GOBGP, BIRD} <= {
            one for one, state in states.items() if state == "established"
        }
        ups = router.vty.peer(NODE_)["connectionsEstablished"]
        assert ups == before + 1, "no reload has ended a session"
