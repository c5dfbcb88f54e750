"""A network that the router teaches by BGP is reached by the learned route, with an egress address.

::

    client-1 (east-1) ── gateway east-2 ── router ── firewall ── legacy
                          table 4100: legacy by the router, community 65000:100 = site=hq

The gateway's own tables say that the legacy network is unreachable, and the policy names no
network: it selects the label. So what arrives has taken the learned route because of its label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Lab, wait
from test_changes import manifests
from test_reachability import talk

CLIENT, GATEWAY = "east/shop/client-1", "east-2"
COMMUNITY = "65000:100"
RULE = {
    "prefixes": [{"prefix": "192.0.2.0/24"}, {"prefix": "2001:db8:2::/64"}],
    "labels": [{"community": COMMUNITY, "key": "site", "value": "hq"}],
}


def vtysh(lab: Lab, *commands: str) -> str:
    """What the router says; it refuses to take back a network that it does not have."""
    words = [word for one in commands for word in ("-c", one)]
    said = lab.exec("router", "vtysh", "--vty_socket", lab.shown["vtySocketDir"], *words)
    assert said.returncode == 0 or " no network " in f" {' '.join(words)} ", said.stdout
    return said.stdout


def networks(lab: Lab) -> list[str]:
    """The legacy networks, IPv4 first."""
    policy = Path(lab.shown["manifests"]["east"]) / "egress.yaml"
    found: list[str] = yaml.safe_load(policy.read_text())["spec"]["destinationCIDRs"]
    return sorted(found, key=lambda one: ":" in one)


def teach(lab: Lab, found: list[str], *, no: str = "") -> None:
    asn = vtysh(lab, "show bgp summary").partition("local AS number ")[2].split()[0]
    route_map = ["route-map HQ permit 10", f"set community {COMMUNITY}", "exit"]
    lines = ["configure terminal", *([] if no else route_map), f"router bgp {asn}"]
    for network in found:
        rule = "" if no else " route-map HQ"
        family = 6 if ":" in network else 4
        lines += [f"address-family ipv{family} unicast", f"{no} network {network}{rule}".strip()]
        lines += ["exit-address-family"]
    vtysh(lab, *lines, "end")


def put(path: Path, **spec: Any) -> None:
    """Other fields of a manifest; None takes one away."""
    document = yaml.safe_load(path.read_text())
    document["spec"].update(spec)
    document["spec"] = {key: one for key, one in document["spec"].items() if one is not None}
    path.write_text(yaml.safe_dump(document))


def learned(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the gateway has learned and uses, by prefix."""
    rows = [row for row in lab.table("route") if (row["node"], row["origin"]) == (GATEWAY, "peer")]
    return {row["prefix"]: row for row in rows if row["used"]}


@contextmanager
def without_main_route(lab: Lab, found: list[str]) -> Iterator[None]:
    """The gateway's main table leads nowhere."""
    for network in found:
        lab.output(GATEWAY, "ip", "route", "add", "unreachable", network, "metric", "1")
    try:
        yield
    finally:
        for network in found:
            lab.output(GATEWAY, "ip", "route", "del", "unreachable", network, "metric", "1")


@pytest.fixture
def taught(lab: Lab) -> Iterator[list[str]]:
    """The router teaches the legacy networks, and the policy selects their label."""
    lab.settle()
    found = networks(lab)
    with manifests(lab) as directory:
        put(directory / "peers.yaml", **{"import": [RULE]})
        put(
            directory / "egress.yaml",
            destinationCIDRs=None,
            destinationSelector={"matchLabels": {"site": "hq"}},
        )
        teach(lab, found)
        try:
            with lab.one_gateway(GATEWAY), without_main_route(lab, found):
                yield found
        finally:
            teach(lab, found, no="no")


def answers(lab: Lab) -> list[bool]:
    """Whether the client gets an answer from the legacy server, by family."""
    legacy = lab.shown["legacy"]
    return [
        talk(lab, CLIENT, "tcp", address, legacy["tcp"]) == "hello"
        for address in legacy["addresses"]
    ]


def sources(lab: Lab, before: int) -> set[str]:
    return {line[2] for line in lab.legacy_log()[before:]}


def test_a_label_leads_to_the_learned_route_and_goes_with_it(lab: Lab, taught: list[str]) -> None:
    egress = next(one for one in lab.shown["egress"] if one["cluster"] == "east")["addresses"]
    wait(lambda: set(learned(lab)) == set(taught), 10, "the gateway has learned both")
    assert {tuple(row["labels"]) for row in learned(lab).values()} == {("site=hq",)}
    before = len(lab.legacy_log())
    wait(lambda: answers(lab) == [True, True], 15, "both families are answered")
    assert sources(lab, before) <= set(egress), "nothing has the pod's own address"
    flows = lab.json("flow", "list", "--pod", "shop/client-1")
    assert any("bgp:site=hq" in str(flow) for flow in flows)

    lab.kill(f"{GATEWAY}/speaker")
    try:
        assert answers(lab) == [True, True], "the routes outlive a killed speaker"
    finally:
        lab.revive(f"{GATEWAY}/speaker")
    wait(lambda: set(learned(lab)) == set(taught), 30, "the next one knows them")

    teach(lab, taught, no="no")
    wait(lambda: not learned(lab), 10, "the router has taken them back")
    wait(lambda: answers(lab) == [False, False], 10, "the policy covers the networks no more")
    table = lab.exec(GATEWAY, "ip", "route", "show", "table", "4100").stdout
    assert "192.0.2.0/24" not in table
