"""Transfers that run while something is done to the lab, and what they must show afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import ECHO_PORT, Lab, report

SENDER, ECHO = "east/shop/client-1", "west/shop/web-1"


@contextmanager
def transfers(lab: Lab, seconds: float) -> Iterator[dict[str, dict[str, Any]]]:
    """UDP and TCP, both families, through the overlay and through egress.

    The yielded reports are filled at the end: ``<protocol> <overlay|egress> <address>``.
    """
    legacy = lab.shown["legacy"]
    routes = [("overlay", address, ECHO_PORT) for address in lab.pod(ECHO)["addresses"]]
    routes += [("egress", address, legacy["udp"]) for address in legacy["addresses"]]
    reports: dict[str, dict[str, Any]] = {}
    with lab.echo_in(ECHO):
        running = {
            f"{mode} {way} {address}": lab.probe(SENDER, mode, address, port, seconds)
            for way, address, port in routes
            for mode in ("udp", "tcp")
        }
        try:
            yield reports
        finally:
            reports |= {name: report(transfer) for name, transfer in running.items()}


def losses(reports: dict[str, dict[str, Any]]) -> list[str]:
    """What was lost, in words; empty when nothing was."""
    assert len(reports) == 8
    return [
        f"{name}: {words}"
        for name, each in reports.items()
        if (words := _udp_losses(each) if name.startswith("udp") else _tcp_losses(each))
    ]


def _udp_losses(found: dict[str, Any]) -> str:
    if not found["missing"] + found["duplicates"]:
        return ""
    first = f"from {found['first_missing'][0] / 1000:.1f} s on" if found["missing"] else ""
    return (
        f"{found['missing']} of {found['sent']} missing {first}, {found['duplicates']} double,"
        f" longest gap {found['longest_gap_ms']} ms, {found['errors'][:2]}"
    )


def _tcp_losses(found: dict[str, Any]) -> str:
    if not (found["reset"] or found["error"] or found["seconds_at_zero"]):
        return ""
    idle = [second for second, count in enumerate(found["per_second"]) if not count]
    return f"nothing in seconds {idle}, reset {found['reset']}, {found['error']}"


def kernel_ids(lab: Lab) -> dict[str, int]:
    """The id of every pinned link and map, by path."""
    found: dict[str, int] = {}
    for host in lab.shown["hosts"].values():
        for pin in sorted(Path(host["bpffs"] or "/nowhere").glob("**/*")):
            if not pin.is_dir():
                found[str(pin)] = _kernel_id(pin)
    assert found
    return found


def _kernel_id(pin: Path) -> int:
    for kind in ("map", "link", "prog"):
        command = ["bpftool", "-j", kind, "show", "pinned", str(pin)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        shown = json.loads(answer.stdout) if answer.returncode == 0 else {}
        if "id" in shown:
            number: int = shown["id"]
            return number
    raise AssertionError(f"{pin}: neither map nor link nor program")


@contextmanager
def route_monitor(lab: Lab, tmp_path: Path) -> Iterator[list[str]]:
    """The router's routing changes; the yielded list is filled at the end."""
    lines: list[str] = []
    monitor = lab.start("router", "ip", "-t", "monitor", "route")
    try:
        yield lines
    finally:
        monitor.terminate()
        text, _ = monitor.communicate(timeout=10)
        (tmp_path / "routes").write_text(text)
        lines += text.splitlines()
