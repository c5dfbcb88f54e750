"""The leak detector of a lab: what it has counted, and a pod whose gate is lifted by hand."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import Lab, wait
from wiretap import Packet, Tap, namespace, opened, taps

from bpf import links, netns
from bpf.maps import Map
from bpf.sys import Command, attr, bpf, info, open_pinned
from mesh.core.model import PodKey
from mesh.pods.links import device_name


def leaks(lab: Lab) -> dict[str, dict[str, Any]]:
    """Rows of ``leak list`` by node."""
    return {row["node"]: row for row in lab.table("leak")}


def leaked(lab: Lab) -> dict[str, Any]:
    """What the detectors have counted where that is not 0: ``last`` by node."""
    return {node: row for node, row in leaks(lab).items() if row["packets"]}


def forget_leaks(lab: Lab, host: str) -> None:
    """Set a node's detector back to 0."""
    with Map.open_pinned(_pins(lab, host) / "mg_leak") as counter:
        counter.update_one(0, {"packets": 0})


def _pins(lab: Lab, host: str) -> Path:
    return Path(lab.shown["hosts"][host]["bpffs"])


def _device(pin: Path) -> int:
    link = open_pinned(pin)
    try:
        return int(struct.unpack_from("=I", info(link, 32), 16)[0])
    finally:
        os.close(link)


@contextmanager
def lifted(lab: Lab, host: str, pod: str, *, beside: bool = False) -> Iterator[None]:
    """Without ``mg_from_pod`` at a pod's device; everything else stays."""
    pin = _pins(lab, host) / "links" / f"{device_name(PodKey(*pod.split('/')))}_in"
    program = bpf(Command.PROG_GET_FD_BY_ID, attr("I", links.program_id(pin)))
    with netns.enter(namespace(lab, host)):
        device = socket.if_indextoname(_device(pin))
    links.detach(pin)
    try:
        yield
    finally:
        with netns.enter(namespace(lab, host)):
            links.tcx(program, device, pin, ingress=True, first=beside)
        os.close(program)


@contextmanager
def open_firewall(lab: Lab) -> Iterator[None]:
    """Every source reaches the server, so that the capture there sees all of them."""
    chain = ("inet", "firewall", "forward")
    rule = ("nft", "insert", "rule", *chain, "accept", "comment", "capture")
    lab.output("firewall", *rule)
    try:
        yield
    finally:
        listed = json.loads(lab.output("firewall", "nft", "-j", "list", "chain", *chain))
        rules = [one["rule"] for one in listed["nftables"] if "rule" in one]
        handle = next(one["handle"] for one in rules if one.get("comment") == "capture")
        lab.output("firewall", "nft", "delete", "rule", *chain, "handle", handle)


def other_sources(tap: Tap, server: str, port: int, egress: str) -> list[Packet]:
    """Datagrams for the server with another source than the egress address."""
    return [
        one
        for one in tap.packets()
        if str(one.destination) == server
        and one.protocol == socket.IPPROTO_UDP
        and int.from_bytes(one.payload[2:4], "big") == port
        and str(one.source) != egress
    ]


def count_a_leak(lab: Lab, host: str, pod: str, family: int, *, beside: bool = False) -> None:
    """A pod without its gate: the detector counts what the server sees, and nothing before."""
    version = 4 if family == socket.AF_INET else 6
    legacy = lab.shown["legacy"]
    server = next(one for one in legacy["addresses"] if (":" in one) == (version == 6))
    egress = {4: "198.51.100.10", 6: "2001:db8:100::10"}[version]
    before = leaks(lab)[host]["packets"]
    to = server, legacy["udp"]
    kind = family, socket.SOCK_DGRAM
    with open_firewall(lab), taps(lab, "legacy") as tap:
        with opened(lab, pod, *kind) as sends:
            sends.sendto(b"covered", to)
            time.sleep(0.2)
        assert other_sources(tap["legacy"], *to, egress) == []
        with opened(lab, pod, *kind) as sends:
            with lifted(lab, host, pod, beside=beside):
                for _ in range(25):
                    sends.sendto(b"leaks", to)
                    time.sleep(0.01)
                time.sleep(0.3)
            sends.sendto(b"covered again", to)
            time.sleep(0.2)
        seen = other_sources(tap["legacy"], *to, egress)
    row = leaks(lab)[host]
    assert len(seen) == 25
    assert row["packets"] - before == len(seen), (row, len(seen))
    assert row["last"] == {"source": str(seen[-1].source), "destination": server}
    wait(lambda: _says(lab, host), 15, "a finding names the leak")
    screen = lab.run("status").stdout
    assert f"Leaked packets: {row['packets']}" in screen


def _says(lab: Lab, host: str) -> bool:
    found = lab.json("status")["findings"]
    return any(one["code"] == "M247" and one["object"] == f"{host}/agent" for one in found)
