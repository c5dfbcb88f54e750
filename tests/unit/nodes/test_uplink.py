"""The uplink: what it was when the datapath was loaded, and what has changed since."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from mesh.netlink import AddressEvent, Event, LinkEvent, Lost
from mesh.nodes.uplink import Facts, changes, concerned

FACTS = Facts(7, 1500, IPv4Address("10.99.0.11"))


def link(ifindex: int, name: str) -> LinkEvent:
    return LinkEvent(ifindex, name, 1500, 0, up=True, carrier=True, gone=False)


def test_what_differs_is_said_in_words() -> None:
    assert changes(FACTS, FACTS) == {}
    now = replace(FACTS, mtu=1400, endpoint=IPv4Address("10.99.0.12"))
    assert changes(FACTS, now) == {
        "mtu": "1400, 1500 at the start",
        "endpoint": "10.99.0.12, 10.99.0.11 at the start",
    }


def test_a_pod_may_send_what_fits_into_the_overlay() -> None:
    assert FACTS.pod_mtu == 1450


@pytest.mark.parametrize(
    "event", [link(7, "uplink"), link(8, "uplink"), link(7, "renamed"), AddressEvent(7), Lost()],
    ids=str,
)  # fmt: skip
def test_an_event_is_about_the_uplink(event: Event) -> None:
    assert concerned(event, "uplink", 7)


@pytest.mark.parametrize("event", [link(8, "other"), AddressEvent(8)], ids=str)
def test_an_event_is_about_another_device(event: Event) -> None:
    assert not concerned(event, "uplink", 7)
