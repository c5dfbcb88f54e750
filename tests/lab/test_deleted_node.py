"""A gateway's Node object is deleted while its machine runs: it withdraws, and cuts nothing."""

from __future__ import annotations

import json

from running import Lab, wait
from test_changes import answered, change, conversations, manifests, silent

#: Pods on the deleted node, and on the one that becomes the gateway.
HERE, THERE = "east/shop/client-1", "east/shop/client-2"
ADDRESSES = ("198.51.100.10", "2001:db8:100::10")


def gateway(lab: Lab) -> str:
    return str(next(r for r in lab.table("egress") if r["cluster"] == "east")["gateway"])


def next_hops(lab: Lab) -> set[str]:
    """Through which addresses the router reaches east's egress addresses."""
    found: set[str] = set()
    for family, address in zip(("-4", "-6"), ADDRESSES, strict=True):
        text = lab.output("router", "ip", family, "-j", "route", "show", address)
        for route in json.loads(text or "[]"):
            hops = route.get("nexthops", [route])
            found |= {hop["gateway"] for hop in hops if "gateway" in hop}
    return found


def test_a_deleted_gateway_node_withdraws_at_once_and_goes_on_carrying(lab: Lab) -> None:
    """Connections go on, those too of its own pods; a Node that comes back changes nothing."""
    with manifests(lab) as directory, conversations(lab, HERE) as here:
        nodes = directory / "nodes.yaml"
        change(nodes, "labels: {}", "labels: {role: gateway}")
        wait(lambda: gateway(lab) == "east-1", 5, "the first node by name is the gateway")
        wait(lambda: next_hops(lab) == {"10.99.0.11", "fd99::11"}, 10, "the router goes there")
        with conversations(lab, THERE) as there:
            talks = {f"{pod} {name}": sock for pod, made in ((HERE, here), (THERE, there))
                     for name, sock in made.items()}  # fmt: skip
            wait(lambda: not silent(talks, 0.3), 15, "connections are open")
            both = nodes.read_text()
            nodes.write_text(both.split("---\n")[1])
            wait(lambda: gateway(lab) == "east-2", 5, "another node is the gateway")
            wait(lambda: next_hops(lab) == {"10.99.0.12", "fd99::12"}, 5, "it alone announces")
            assert not silent(talks, 1)
            wait(
                lambda: (
                    not {b["node"] for b in lab.table("block") if b["cluster"] == "east"}
                    & {"east-1"}
                ),
                10,
                "the blocks of the deleted node rest",
            )
            assert not silent(talks, 1)
            with conversations(lab, THERE) as fresh:
                assert all(answered(sock) for sock in fresh.values())
            found = {one["code"] for one in lab.json("status")["findings"]}
            assert {"D603", "B214"} <= found
            nodes.write_text(both)
            wait(lambda: gateway(lab) == "east-1", 5, "the node is back")
            wait(lambda: next_hops(lab) == {"10.99.0.11", "fd99::11"}, 10, "and announces")
            assert not silent(talks, 1)
