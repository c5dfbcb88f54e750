"""XDP on the uplink as the configuration wants it; a driver that refuses stops nothing."""

from __future__ import annotations

import errno
import os
from typing import cast

import pytest

from mesh.datapath.programs import Datapath
from mesh.datapath.settings import DatapathSettings
from mesh.datapath.xdp import UplinkXDP


class Programs:
    """Those of a node whose driver may refuse."""

    def __init__(self, error: int = 0) -> None:
        self.error, self.calls = error, list[str]()

    def attach_xdp(self, device: str) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.calls.append(f"attach {device}")

    def detach_xdp(self) -> None:
        self.calls.append("detach")


def made(mode: str, programs: Programs) -> UplinkXDP:
    settings = DatapathSettings(xdp=mode)  # type: ignore[arg-type]
    return UplinkXDP(settings, "n1", cast("Datapath", programs))


@pytest.mark.parametrize(
    ("mode", "calls"), [("on", ["attach nowhere0"]), ("auto", ["detach"]), ("off", ["detach"])]
)
def test_auto_leaves_alone_what_is_no_network_card(mode: str, calls: list[str]) -> None:
    programs = Programs()
    xdp = made(mode, programs)
    xdp.attach("nowhere0")
    assert programs.calls == calls
    assert xdp.is_wanted("nowhere0") == (mode == "on")
    assert list(xdp.findings()) == []


def test_a_driver_that_refuses_is_a_finding_until_it_does_not() -> None:
    programs = Programs(errno.EOPNOTSUPP)
    xdp = made("on", programs)
    xdp.attach("up0")
    (finding,) = xdp.findings()
    assert (finding.code, finding.object, finding.field) == ("V500", "n1", "datapath.xdp")
    assert finding.text == "up0: Operation not supported"
    programs.error = 0
    xdp.attach("up0")
    assert list(xdp.findings()) == []


def test_nobody_has_asked_for_it() -> None:
    assert DatapathSettings().xdp == "off"


@pytest.mark.parametrize(
    ("mode", "error", "starts"),
    [("on", 0, [True]), ("on", errno.EBUSY, [True, False]), ("off", 0, [False])],
    ids=["taken", "refused", "off"],
)
def test_notes_are_read_only_where_our_program_writes_them(
    mode: str, error: int, starts: list[bool]
) -> None:
    """Where another one stands in the driver, its words beside a frame are not ours."""
    said: list[bool] = []
    made(mode, Programs(error)).begin("up0", said.append)
    assert said == starts
