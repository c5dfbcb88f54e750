"""What the agent makes so that the kernel gathers fragments: links, rules, routes; and back."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from bpf.netns import enter
from mesh.datapath.findings import NOT_GATHERED
from mesh.datapath.gathering import MARK, Gathering
from mesh.kernel import GATHERING, Kernel


def shown(place: Path, *words: str) -> str:
    command = ["ip", "-n", place.name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def made(place: Path, pins: Path, times: int) -> list[bool]:
    async with Kernel.open_in(str(place)) as kernel:
        link = await kernel.add_vxlan("mg_vxlan", 8472)
        gathering = Gathering("a", kernel, pins / "gather")
        found = []
        for _ in range(times):
            with enter(place):
                found.append(await gathering.make(link.ifindex))
        assert list(gathering.findings()) == []
        return found


def test_it_is_made_once_and_outlives_who_made_it(
    namespaces: Callable[[], Path], pins: Path
) -> None:
    place = namespaces()
    assert asyncio.run(made(place, pins, 2)) == [True, True]
    for family in ("-4", "-6"):
        rules = [line for line in shown(place, family, "rule").splitlines() if "fwmark" in line]
        assert len(rules) == 1
        assert f"{MARK:#x}" in rules[0]
        routes = shown(place, family, "route", "show", "table", str(GATHERING))
        assert routes.startswith("default via ")
        assert "dev mg_vxlan" in routes
    assert sorted(one.name for one in (pins / "gather").iterdir()) == ["gather4", "gather6"]


def test_an_uninstall_takes_the_rules_away(namespaces: Callable[[], Path], pins: Path) -> None:
    place = namespaces()
    asyncio.run(made(place, pins, 1))

    async def removed() -> int:
        async with Kernel.open_in(str(place)) as kernel:
            return await kernel.delete_gathering()

    assert [asyncio.run(removed()) for _ in range(2)] == [2, 0]
    assert "fwmark" not in shown(place, "rule") + shown(place, "-6", "rule")


def test_a_kernel_that_refuses_is_a_finding(pins: Path) -> None:
    class Refusing:
        async def add_gathering(self, ifindex: int, mark: int) -> None:
            raise OSError(95, f"rule {mark:#x} dev {ifindex}: not supported")

    gathering = Gathering("a", Refusing(), pins / "gather")
    assert not asyncio.run(gathering.make(1))
    (finding,) = gathering.findings()
    assert finding.code is NOT_GATHERED
    assert "not supported" in finding.text
