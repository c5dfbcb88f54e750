"""A gateway is lost under load: every connection lives, and nothing leaves with another source.

::

    client-1 (east-1) ─┬─ east-2 ─┬─ router ── firewall ── legacy
                       └─ east-3 ─┘
    50 TCP connections (they send, are pushed to, are idle), UDP each way, both families

With ``MESHGATE_SOAK=1`` each gateway is lost in every way, with and without the agents' help, more
often, under more load, and by the figures of a machine that has nothing else to do.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import SOAK, Lab, wait

from mesh.core.files import replace_file

GATEWAYS = ("east-2", "east-3")
#: A gateway in one test alone, in the soak's lab.
THIRD = "east-4"
LOAD = ("--lanes", "8", "--rate", "1000") if SOAK else ("--lanes", "4", "--rate", "250")
#: Of the median gap; in a normal run other lanes of tests take the processor.
OUTWARDS_MS = 50 if SOAK else 250
#: Of each gap back: BFD of the soak's lab takes 150 ms.
BACK_MS = 250
CUTS, BUSY, LOADED_S = (20, 10, 60) if SOAK else (1, 2, 3)
#: Gateway, how, and whether the agents of both nodes stand still meanwhile.
LOSSES: list[tuple[str, str, tuple[str, ...]]] = [("east-3", "drain", ("--seconds", "4"))]
if SOAK:
    LOSSES = [
        (gateway, how, alone)
        for gateway in GATEWAYS
        for how in ("kill", "cut", "hang", "kill-agent", "drain")
        for alone in ((), ("--alone",))
        if not alone or how in ("kill", "cut")
    ]


@pytest.fixture(scope="module")
def lab(bfd_lab: Lab) -> Iterator[Lab]:
    yield bfd_lab
    bfd_lab.settle()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - figures


def judged(lab: Lab, node: str = "east-1") -> dict[str, dict[str, Any]]:
    """How a node sees the gateways of its cluster."""
    return {row["gateway"]: row for row in lab.table("gateway") if row["node"] == node}


def all_answer(lab: Lab, *names: str) -> bool:
    seen = judged(lab)
    return all(name in seen and seen[name]["healthy"] for name in (*GATEWAYS, *names))


def drill(lab: Lab, gateway: str, how: str, *more: object) -> dict[str, Any]:
    """One drill, with its report; all gateways answer before it. Several have spaces between."""
    lost = gateway.split()
    wait(lambda: all_answer(lab, *lost), 30, "all gateways answer")
    words = ("egress", "drill", "--kill", *lost, "--how", how, *LOAD, *more, "-o", "json")
    said = lab.run(*words)
    assert said.stdout, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    for way in ("outwards", "back"):
        gaps = ", ".join(f"{gap:.0f}" for gap in found[way]["gaps_ms"])
        missing, came = found[way]["lost"], found[way]["came"]
        whole = f"{missing} of {came + missing} lost, at most {found[way]['most_gaps']} gaps"
        say(f"{gateway} {how} {' '.join(map(str, more))} {way}: {whole}, {gaps or 'none'} ms")
    assert found["survived"] == found["connections"] == 50, found
    assert found["refused"] == 0, found
    return found


def gaps_of(found: dict[str, Any], way: str = "outwards") -> list[float]:
    """Of each flow that has lost something; 0: none has."""
    gaps: list[float] = found[way]["gaps_ms"]
    return gaps or [0.0]


def in_time(found: dict[str, Any]) -> bool:
    """Whether all that is lost lies within the bounds, in one gap of each flow."""
    return (
        statistics.median(gaps_of(found)) <= OUTWARDS_MS
        and max(gaps_of(found)) <= 3 * OUTWARDS_MS
        and (not SOAK or max(gaps_of(found, "back")) <= BACK_MS)
        and max(found[way]["most_gaps"] for way in ("outwards", "back")) <= 1
    )


def test_a_dead_gateway_is_a_finding_that_names_it_and_the_list_says_since_when(lab: Lab) -> None:
    with ExitStack() as stack:
        port = ("bridge", "link", "set", "dev", "west-3", "state")
        lab.output("router", *port, "0")  # disabled
        stack.callback(lab.output, "router", *port, "3")  # forwarding
        cut_at = time.time()

        def named() -> bool:
            found = lab.json("status")["findings"]
            return any(one["code"] == "M229" and "west-3" in one["text"] for one in found)

        wait(named, 20, "the finding names it")
        (policy,) = (row for row in lab.table("egress") if row["cluster"] == "west")
        seen = {one["node"]: one for one in policy["gateways"]}
        assert (seen["west-2"]["healthy"], seen["west-3"]["healthy"]) == (True, False)
        assert cut_at - 1 <= seen["west-3"]["since"] <= time.time()
    wait(lambda: judged(lab, "west-1")["west-3"]["healthy"] is True, 20, "it answers again")


@pytest.mark.parametrize(("gateway", "how", "more"), LOSSES)
def test_no_way_to_lose_a_gateway_costs_a_connection(
    lab: Lab, gateway: str, how: str, more: tuple[str, ...]
) -> None:
    found = drill(lab, gateway, how, *more)
    if how in ("kill", "cut"):
        assert in_time(found), found
    else:
        assert (found["outwards"]["lost"], found["back"]["lost"]) == (0, 0), found


def test_cuts_are_found_out_in_time(lab: Lab) -> None:
    """Every other one while the agents of both nodes stand still."""
    short = ("--seconds", "2")
    ways = [(), ("--alone",)] * CUTS
    found = [drill(lab, GATEWAYS[n % 2], "cut", *short, *ways[n + 1]) for n in range(CUTS)]
    for way, most in (("outwards", 3 * OUTWARDS_MS), ("back", BACK_MS if SOAK else 3000)):
        gaps = [gap for one in found for gap in gaps_of(one, way)]
        middle, longest = statistics.median(gaps), max(gaps)
        say(f"{CUTS} cuts {way}: median {middle:.0f} ms, longest {longest:.0f} ms")
        assert longest <= most
    assert statistics.median(gap for one in found for gap in gaps_of(one)) <= OUTWARDS_MS


def test_no_gateway_is_given_up_while_the_machine_is_loaded(lab: Lab) -> None:
    wait(lambda: all_answer(lab), 30, "all gateways answer")
    before = {name: row["downs"] for name, row in judged(lab).items()}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        drill(lab, GATEWAYS[0], "none", "--seconds", LOADED_S)
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert {name: row["downs"] for name, row in judged(lab).items()} == before


@contextmanager
def third_gateway(lab: Lab) -> Iterator[None]:
    """The policy's label on one more node."""
    path = Path(lab.shown["manifests"]["east"]) / "nodes.yaml"
    before = path.read_text()
    nodes = [*yaml.safe_load_all(before)]
    for node in nodes:
        if node["metadata"]["name"] == THIRD:
            node["metadata"]["labels"] = {"role": "gateway"}
    replace_file(path, yaml.safe_dump_all(nodes), mode=0o644)
    try:
        yield
    finally:
        replace_file(path, before, mode=0o644)


def paths_back(lab: Lab) -> set[int]:
    """How many paths the router has to the egress address of each family."""
    addresses = next(row["addresses"] for row in lab.table("egress") if row["cluster"] == "east")
    words = ("ip", "route", "show")
    return {lab.output("router", *words, "exact", one).count("via ") for one in addresses}


if SOAK:

    @pytest.mark.parametrize("more", [(), ("--alone",)], ids=["helped", "alone"])
    @pytest.mark.parametrize("how", ["cut", "kill"])
    @pytest.mark.parametrize("pair", [0, 1, 2])
    def test_two_of_three_gateways_are_lost_at_once(
        lab: Lab, pair: int, how: str, more: tuple[str, ...]
    ) -> None:
        three = (*GATEWAYS, THIRD)
        lost = [one for one in three if one != three[pair]]
        with third_gateway(lab):
            wait(lambda: all_answer(lab, THIRD), 30, "the third one answers")
            wait(lambda: paths_back(lab) == {3}, 30, "the router has a path by each")
            found = drill(lab, " ".join(lost), how, *more)
            assert in_time(found), found
