"""A gateway's Node object is deleted while its machine runs: it withdraws, and cuts nothing."""

from __future__ import annotations

import json

from running import Lab, wait
from test_changes import answered, change, conversations, manifests, silent

#: Pods on the deleted node, and on the one that becomes the gateway.
HERE, THERE = "east/shop/client-1", "east/shop/client-2"
#: What the router has as next hops while both nodes are gateways.
OTHERS = ["east-2", "east-3"]
HOPS_OF_OTHERS = {"10.99.0.12", "fd99::12", "10.99.0.13", "fd99::13"}
HOPS = {"10.99.0.11", "fd99::11", *HOPS_OF_OTHERS}
ADDRESSES = ("198.51.100.10", "2001:db8:100::10")


def gateways(lab: Lab) -> list[str]:
    row = next(r for r in lab.table("egress") if r["cluster"] == "east")
    assert row["gateway"] == (row["gateways"][0]["node"] if row["gateways"] else None)
    return [one["node"] for one in row["gateways"]]


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
    """All nodes are gateways, and the router has them. One Node is deleted: connections go on.

    So do those of its own pods; a Node that comes back changes nothing.
    """
    with manifests(lab) as directory, conversations(lab, HERE) as here:
        nodes = directory / "nodes.yaml"
        change(nodes, "labels: {}", "labels: {role: gateway}")
        wait(lambda: gateways(lab) == ["east-1", *OTHERS], 5, "all nodes are gateways")
        wait(lambda: next_hops(lab) == HOPS, 10, "the router goes to all")
        with conversations(lab, THERE) as there:
            talks = {f"{pod} {name}": sock for pod, made in ((HERE, here), (THERE, there))
                     for name, sock in made.items()}  # fmt: skip
            wait(lambda: not silent(talks, 0.3), 15, "connections are open")
            both = nodes.read_text()
            nodes.write_text("---\n".join(both.split("---\n")[1:]))
            wait(lambda: gateways(lab) == OTHERS, 5, "the other nodes are gateways")
            wait(lambda: next_hops(lab) == HOPS_OF_OTHERS, 5, "they alone announce")
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
            wait(lambda: gateways(lab) == ["east-1", *OTHERS], 5, "the node is back")
            wait(lambda: next_hops(lab) == HOPS, 10, "and announces")
            assert not silent(talks, 1)
