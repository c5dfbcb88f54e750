"""The leak detector counts what the server sees of a covered pod whose gate somebody has lifted."""

from __future__ import annotations

import socket

import pytest
from leaking import count_a_leak, forget_leaks, leaked
from running import Lab

FAMILIES = (socket.AF_INET, socket.AF_INET6)


@pytest.mark.parametrize("family", FAMILIES, ids=("IPv4", "IPv6"))
def test_the_detector_counts_what_the_server_sees(lab: Lab, family: int) -> None:
    lab.settle()
    assert leaked(lab) == {}
    try:
        count_a_leak(lab, "east-1", "east/shop/client-1", family)
    finally:
        forget_leaks(lab, "east-1")
    assert leaked(lab) == {}
